//! Trees and manifests as people have them, and the plan that each must get.

use super::*;
use crate::domain::Digest;
use crate::domain::source::TreeEntry;

fn tree(paths: &[&str]) -> SourceTree {
    let entry = || TreeEntry { digest: Digest::of(b""), size: 0 };
    SourceTree::new(paths.iter().map(|p| ((*p).to_owned(), entry())).collect())
}

/// A plan of these files with these contents; every path with a content is in the tree too.
fn plan_of(paths: &[&str], contents: &[(&str, &str)], wishes: &BuildOverrides) -> Result<Plan, DetectError> {
    let all: Vec<&str> = paths.iter().copied().chain(contents.iter().map(|(p, _)| *p)).collect();
    let tree = tree(&all);
    let wanted = sources(&tree, wishes)?;
    let files = contents
        .iter()
        .filter(|(path, _)| wanted.iter().any(|w| w == path))
        .map(|(path, text)| ((*path).to_owned(), Bytes::from((*text).to_owned())))
        .collect();
    detect(&tree, wishes, &files)
}

fn built(plan: Result<Plan, DetectError>) -> BuildPlan {
    match plan.unwrap() {
        Plan::Build(plan) => *plan,
        Plan::Files { sign, .. } => panic!("no build: {sign}"),
    }
}

fn none() -> BuildOverrides {
    BuildOverrides::default()
}

fn script(name: &str) -> BuildCommand {
    BuildCommand::Script(name.to_owned())
}

fn tool(words: &[&str]) -> BuildCommand {
    BuildCommand::Tool(words.iter().map(|w| (*w).to_owned()).collect())
}

/// The manifests that each framework's own starter writes.
#[test]
fn every_starter_is_recognised_and_the_sign_is_named() {
    let cases: &[(&str, &str, &[&str], BuildCommand, &str)] = &[
        (
            "next",
            r#"{"scripts":{"build":"next build"},"dependencies":{"next":"16.0.3","react":"19.2.0","react-dom":"19.2.0"}}"#,
            &["next.config.ts"],
            script("build"),
            "out",
        ),
        (
            "nuxt",
            r#"{"scripts":{"build":"nuxt build","dev":"nuxt dev","generate":"nuxt generate"},"dependencies":{"nuxt":"^4.2.1"}}"#,
            &["nuxt.config.ts"],
            script("generate"),
            ".output/public",
        ),
        (
            "nuxt",
            r#"{"scripts":{"build":"nuxt build"},"dependencies":{"nuxt":"^4.2.1"}}"#,
            &[],
            tool(&["nuxt", "generate"]),
            ".output/public",
        ),
        (
            "astro",
            r#"{"scripts":{"build":"astro build"},"dependencies":{"astro":"^5.16.0"}}"#,
            &["astro.config.mjs"],
            script("build"),
            "dist",
        ),
        (
            "sveltekit",
            r#"{"scripts":{"build":"vite build"},"devDependencies":{"@sveltejs/adapter-static":"^3","@sveltejs/kit":"^2","vite":"^7"}}"#,
            &["vite.config.ts"],
            script("build"),
            "build",
        ),
        (
            "angular",
            r#"{"scripts":{"build":"ng build"},"dependencies":{"@angular/core":"^21.0.0"},"devDependencies":{"@angular/build":"^21.0.0"}}"#,
            &["angular.json"],
            script("build"),
            "dist",
        ),
        (
            "vue-cli",
            r#"{"scripts":{"build":"vue-cli-service build"},"devDependencies":{"@vue/cli-service":"~5.0.0"}}"#,
            &["vue.config.js"],
            script("build"),
            "dist",
        ),
        (
            "create-react-app",
            r#"{"scripts":{"build":"react-scripts build"},"dependencies":{"react-scripts":"5.0.1"}}"#,
            &[],
            script("build"),
            "build",
        ),
        (
            "gatsby",
            r#"{"scripts":{"build":"gatsby build"},"dependencies":{"gatsby":"^5.15.0"}}"#,
            &["gatsby-config.js"],
            script("build"),
            "public",
        ),
        (
            "eleventy",
            r#"{"scripts":{"build":"npx @11ty/eleventy"},"devDependencies":{"@11ty/eleventy":"^3.1.2"}}"#,
            &["eleventy.config.js"],
            script("build"),
            "_site",
        ),
        ("eleventy", r#"{"dependencies":{"@11ty/eleventy":"^3.1.2"}}"#, &[], tool(&["eleventy"]), "_site"),
        (
            "vitepress",
            r#"{"scripts":{"docs:build":"vitepress build docs"},"devDependencies":{"vitepress":"^1.6.4"}}"#,
            &["docs/.vitepress/config.mts", "docs/index.md"],
            script("docs:build"),
            "docs/.vitepress/dist",
        ),
        (
            "vitepress",
            r#"{"scripts":{"build":"vitepress build"},"devDependencies":{"vitepress":"^1.6.4"}}"#,
            &[".vitepress/config.mts", "index.md"],
            script("build"),
            ".vitepress/dist",
        ),
        (
            "docusaurus",
            r#"{"scripts":{"build":"docusaurus build"},"dependencies":{"@docusaurus/core":"3.9.2"}}"#,
            &["docusaurus.config.ts"],
            script("build"),
            "build",
        ),
        (
            "react-router",
            r#"{"scripts":{"build":"react-router build"},"dependencies":{"react-router":"7.9.2"},"devDependencies":{"@react-router/dev":"7.9.2","vite":"^7"}}"#,
            &["react-router.config.ts", "vite.config.ts"],
            script("build"),
            "build/client",
        ),
        (
            "remix",
            r#"{"scripts":{"build":"remix vite:build"},"dependencies":{"@remix-run/react":"^2.16"},"devDependencies":{"@remix-run/dev":"^2.16","vite":"^5"}}"#,
            &["vite.config.ts"],
            script("build"),
            "build/client",
        ),
        (
            "vite",
            r#"{"scripts":{"build":"tsc -b && vite build"},"dependencies":{"react":"^19","react-router":"^7"},"devDependencies":{"vite":"^7.2.4"}}"#,
            &["vite.config.ts", "index.html"],
            script("build"),
            "dist",
        ),
        (
            "vite",
            r#"{"scripts":{"build":"vue-tsc -b && vite build"},"dependencies":{"vue":"^3"},"devDependencies":{"vite":"npm:rolldown-vite@latest"}}"#,
            &["index.html"],
            script("build"),
            "dist",
        ),
        ("vite", r#"{"dependencies":{"vite":"8"}}"#, &["index.html"], tool(&["vite", "build"]), "dist"),
        (
            "rsbuild",
            r#"{"scripts":{"build":"rsbuild build"},"devDependencies":{"@rsbuild/core":"^1.6"}}"#,
            &["rsbuild.config.ts"],
            script("build"),
            "dist",
        ),
        (
            "parcel",
            r#"{"scripts":{"build":"parcel build"},"devDependencies":{"parcel":"^2"}}"#,
            &[],
            script("build"),
            "dist",
        ),
        (
            "storybook",
            r#"{"scripts":{"build":"storybook build"},"devDependencies":{"storybook":"^10"}}"#,
            &[],
            script("build"),
            "storybook-static",
        ),
        (
            "script",
            r#"{"scripts":{"build":"make"},"devDependencies":{"left-pad":"1"}}"#,
            &[],
            script("build"),
            "dist",
        ),
    ];
    for (framework, manifest, paths, build, output) in cases {
        let plan = built(plan_of(paths, &[("package.json", manifest)], &none()));
        assert_eq!(plan.framework, *framework, "{manifest}");
        assert_eq!(plan.build, *build, "{manifest}");
        let Outputs::Guessed(outputs) = &plan.outputs else { panic!("{framework}: named") };
        assert_eq!(outputs[0], *output, "{framework}");
        assert_eq!(plan.install, Install::Detected);
        let title = table::named(framework).map_or("package.json with", |row| &row.title);
        assert!(plan.sign.starts_with(title), "{}", plan.sign);
    }
}

#[test]
fn a_row_without_a_way_to_build_decides_nothing() {
    let manifest = r#"{"devDependencies":{"parcel":"2","webpack":"5"}}"#;
    let plan = plan_of(&["index.html"], &[("package.json", manifest)], &none()).unwrap();
    assert!(matches!(plan, Plan::Files { .. }));
}

#[test]
fn files_and_scripts_are_signs_where_no_dependency_is() {
    let with_file = plan_of(
        &["vite.config.mts"],
        &[("package.json", r#"{"scripts":{"build":"node make.js"},"dependencies":{"x":"1"}}"#)],
        &none(),
    );
    assert_eq!(built(with_file).sign, "Vite: vite.config.mts is there");
    let by_script =
        plan_of(&[], &[("package.json", r#"{"scripts":{"build":"vite build --mode x"}}"#)], &none());
    assert_eq!(built(by_script).sign, "Vite: the build script begins with vite build");
}

#[test]
fn html_without_a_build_is_served_as_it_is() {
    let plan = plan_of(&["index.html", "a.css"], &[], &none()).unwrap();
    assert!(matches!(plan, Plan::Files { ref directory, .. } if directory.is_empty()));
    let plan = plan_of(&["index.html"], &[("package.json", "{}")], &none()).unwrap();
    assert!(matches!(plan, Plan::Files { .. }));
    // Set to be plain, a framework's project is not built; its pages may lie in a folder.
    let wishes =
        BuildOverrides { framework: Some("plain".into()), output_directory: Some("site".into()), ..none() };
    let manifest = r#"{"scripts":{"build":"vite build"},"devDependencies":{"vite":"7"}}"#;
    let plan = plan_of(&["site/index.html"], &[("package.json", manifest)], &wishes).unwrap();
    assert!(matches!(plan, Plan::Files { ref directory, .. } if directory == "site"));
}

#[test]
fn nothing_to_deploy_is_said_plainly() {
    assert_eq!(plan_of(&["readme.md"], &[], &none()), Err(DetectError::Nothing(vec![])));
    let bad = || Err(DetectError::BadManifest { path: "package.json".into() });
    assert_eq!(plan_of(&[], &[("package.json", "[]")], &none()), bad());
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    assert_eq!(plan_of(&[], &[("package.json", &deep)], &none()), bad());
    let no_script = plan_of(&[], &[("package.json", "{}")], &none());
    assert_eq!(no_script, Err(DetectError::NoBuildScript(vec![])));
    // A folder put around the project, or a monorepo: where to look is named.
    let wrapped =
        plan_of(&["app/node_modules/x/package.json"], &[("app/package.json", "{}")], &none()).unwrap_err();
    assert_eq!(wrapped, DetectError::Nothing(vec!["app".into()]));
    assert!(wrapped.to_string().ends_with("a package.json lies in app"));
    let monorepo =
        plan_of(&["apps/web/package.json"], &[("package.json", r#"{"workspaces":["apps/*"]}"#)], &none())
            .unwrap_err();
    assert!(monorepo.hint().contains("rootDirectory") && monorepo.to_string().contains("apps/web"));
}

#[test]
fn a_public_folder_may_hold_sources_unless_the_framework_writes_there() {
    let plan = |manifest: &str| built(plan_of(&[], &[("package.json", manifest)], &none()));
    assert!(plan(r#"{"scripts":{"build":"make"}}"#).may_be_source("public"));
    assert!(
        plan(r#"{"scripts":{"build":"webpack"},"devDependencies":{"webpack":"5"}}"#).may_be_source("public")
    );
    assert!(!plan(r#"{"scripts":{"build":"make"}}"#).may_be_source("dist"));
    assert!(!plan(r#"{"dependencies":{"gatsby":"5"}}"#).may_be_source("public"));
}

/// The lockfile of such a workspace is at its top, where often nothing but scripts is.
#[test]
fn a_pnpm_workspace_is_installed_although_its_top_depends_on_nothing() {
    let install = |paths: &[&str]| {
        let manifest = [("package.json", r#"{"private":true,"scripts":{"build":"pnpm -r build"}}"#)];
        built(plan_of(paths, &manifest, &none())).install
    };
    assert_eq!(install(&["pnpm-workspace.yaml", "apps/web/package.json"]), Install::Detected);
    assert_eq!(install(&["apps/web/package.json"]), Install::Nothing);
}

/// Seen with a starter in a folder: its sources went live as a site.
#[test]
fn the_sources_of_packages_are_no_site() {
    let paths = ["web/index.html", "web/package.json", "api/package.json"];
    let refused = plan_of(&paths, &[], &none()).unwrap_err();
    assert_eq!(refused, DetectError::Nothing(vec!["api".into(), "web".into()]));
    assert!(refused.hint().contains("rootDirectory") && refused.summary().contains("several packages"));
    let monorepo = plan_of(&paths, &[("package.json", r#"{"workspaces":["web"]}"#)], &none());
    assert_eq!(monorepo, Err(DetectError::NoBuildScript(vec!["api".into(), "web".into()])));
    let Plan::Files { directory, sign } = plan_of(&["public/index.html", "readme.md"], &[], &none()).unwrap()
    else {
        panic!("a build")
    };
    assert_eq!(directory, "public");
    assert_eq!(sign, "plain HTML: there is no package.json; index.html lies in public");
}

#[test]
fn overrides_win_and_can_not_leave_the_project() {
    let wishes = BuildOverrides {
        command: Some("make site".into()),
        output_directory: Some("./public/".into()),
        install_command: Some(String::new()),
        root_directory: Some("apps/web".into()),
        ..none()
    };
    let plan = built(plan_of(&[], &[("apps/web/package.json", "{}")], &wishes));
    assert_eq!(plan.directory, "apps/web");
    assert_eq!(plan.build, BuildCommand::Line("make site".into()));
    assert_eq!((plan.outputs, plan.install), (Outputs::Named("public".into()), Install::Skipped));
    let out = BuildOverrides { output_directory: Some("../x".into()), ..none() };
    let refused = DetectError::BadPath { setting: "outputDirectory", path: "../x".into() };
    assert_eq!(plan_of(&[], &[("package.json", "{}")], &out), Err(refused));
    // `apps/we` is the beginning of a name, not a folder.
    let out = BuildOverrides { root_directory: Some("apps/we".into()), ..none() };
    assert_eq!(plan_of(&["apps/web/index.html"], &[], &out), Err(DetectError::NoRoot("apps/we".into())));
    let unknown = BuildOverrides { framework: Some("nextjs".into()), ..none() };
    let refused = plan_of(&["index.html"], &[], &unknown).unwrap_err();
    assert!(refused.to_string().contains("`nextjs` is not known; known are plain, next"), "{refused}");
    let forced = BuildOverrides { framework: Some("eleventy".into()), ..none() };
    let manifest = r#"{"scripts":{"build":"x"},"dependencies":{"vite":"7"}}"#;
    assert_eq!(built(plan_of(&[], &[("package.json", manifest)], &forced)).framework, "eleventy");
}

#[test]
fn a_workspace_is_installed_at_its_root_and_built_in_its_folder() {
    let app = r#"{"scripts":{"build":"vite build"},"devDependencies":{"vite":"7"}}"#;
    let wishes = BuildOverrides { root_directory: Some("apps/web".into()), ..none() };
    let root_of = |paths: &[&str], root: &str| {
        let plan = built(plan_of(paths, &[("apps/web/package.json", app), ("package.json", root)], &wishes));
        (plan.root, plan.directory)
    };
    let apart = ("apps/web".to_owned(), "apps/web".to_owned());
    let together = (String::new(), "apps/web".to_owned());
    assert_eq!(root_of(&["package-lock.json"], r#"{"workspaces":["apps/*"]}"#), together);
    assert_eq!(root_of(&["pnpm-workspace.yaml", "pnpm-lock.yaml"], "{}"), together);
    // Not among the workspaces, or a lockfile of its own beside pnpm's workspace.
    assert_eq!(root_of(&["package-lock.json"], r#"{"workspaces":["packages/*"]}"#), apart);
    assert_eq!(root_of(&["package-lock.json"], "{}"), apart);
    assert_eq!(root_of(&["pnpm-workspace.yaml", "apps/web/pnpm-lock.yaml"], "{}"), apart);
}

#[test]
fn angulars_own_file_says_where_it_writes_and_can_not_lead_out() {
    let manifest = r#"{"scripts":{"build":"ng build"},"dependencies":{"@angular/core":"21"}}"#;
    let outputs = |angular: &str| {
        let plan = plan_of(&[], &[("package.json", manifest), ("angular.json", angular)], &none());
        built(plan).outputs
    };
    let shop = r#"{"projects":{"shop":{"projectType":"application","architect":{"build":{"options":{}}}}}}"#;
    let expected = ["dist/shop/browser", "dist/shop", "dist"].map(ToOwned::to_owned).to_vec();
    assert_eq!(outputs(shop), Outputs::Guessed(expected));
    let out = shop.replace("\"options\":{}", "\"options\":{\"outputPath\":\"../../etc\"}");
    assert_eq!(outputs(&out), Outputs::Guessed(vec!["dist".into()]));
}

#[test]
fn the_projects_file_is_found_where_the_deployment_points() {
    let tree = tree(&["libra.toml", "apps/web/libra.toml", "apps/api/x"]);
    let at = |root: Option<&str>| {
        let deployment = BuildOverrides { root_directory: root.map(ToOwned::to_owned), ..none() };
        project_file(&tree, &deployment).unwrap()
    };
    assert_eq!(at(None).as_deref(), Some("libra.toml"));
    assert_eq!(at(Some("apps/web")).as_deref(), Some("apps/web/libra.toml"));
    assert_eq!(at(Some("apps/api")).as_deref(), Some("libra.toml"));
}
