//! What tools really printed (`tests/fixtures/diagnosis/<rule>.<phase>.<tool>.txt`), and what must be
//! said of it: that rule and no other, or nothing where the output proves nothing.

use super::*;

fn fixtures() -> Vec<(String, String)> {
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let folder = std::path::Path::new(&root).join("tests/fixtures/diagnosis");
    let mut found: Vec<(String, String)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(&path).unwrap())
        })
        .collect();
    found.sort();
    found
}

fn failure<'a>(
    phase: Phase,
    log: &'a str,
    files: &'a [&'a str],
) -> Failure<'a, std::iter::Copied<std::slice::Iter<'a, &'a str>>> {
    Failure { phase, detected_install: true, log, files: files.iter().copied() }
}

fn phase_of(name: &str) -> Phase {
    if name.contains(".install.") { Phase::Install } else { Phase::Build }
}

#[test]
fn real_output_gets_the_diagnosis_it_proves() {
    let files = ["src/components/Card.tsx", "src/App.tsx"];
    let mut wrong = Vec::new();
    let all = fixtures();
    for (name, log) in &all {
        let expected = name.split('.').next().unwrap();
        let decided = decide(&failure(phase_of(name), log, &files));
        let rule = decided.as_ref().map_or("none", |(rule, _)| &rule.name);
        if rule != expected {
            wrong.push(format!("{name}: {rule}: {:?}", decided.map(|(_, evidence)| evidence)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A rule that nothing real ever fitted is a guess.
    for rule in rules::all() {
        assert!(all.iter().any(|(name, _)| name.split('.').next() == Some(&rule.name)), "{}", rule.name);
    }
}

#[test]
fn the_evidence_is_the_line_that_proves_it() {
    let shown = |name: &str| {
        let (_, log) = fixtures().into_iter().find(|(n, _)| n == name).unwrap();
        let files = ["src/components/Card.tsx", "src/App.tsx"];
        diagnose(&failure(phase_of(name), &log, &files)).unwrap().evidence.unwrap()
    };
    for (name, proof) in [
        ("lockfile.install.npm.txt", "npm error Missing: left-pad@1.3.0 from lock file"),
        ("lockfile.install.pnpm.txt", "1 dependencies were added: left-pad@1.3.0"),
        ("peers.install.npm.txt", "npm error Found: react@19.2.0"),
        ("node-version.install.npm.txt", "npm error notsup Required: {\"node\":\">=99\"}"),
        ("private-package.install.npm.txt", "@acme-internal-8731%2fdesign-system"),
        ("version-not-found.install.npm.txt", "No matching version found for is-odd@99.0.0"),
        ("types.build.tsc.txt", "src/App.tsx(1,7): error TS2322: Type 'string'"),
        ("missing-module.build.vite.txt", "failed to resolve import \"some-package-not-here\""),
        ("case.build.tsc.txt", "the project has src/components/Card.tsx"),
        ("network.build.node.txt", "getaddrinfo EAI_AGAIN cms.example.com"),
        ("heap.build.node.txt", "JavaScript heap out of memory"),
        ("native-tools.install.npm.txt", "Could not find any Python installation"),
        ("variable.build.supabase.txt", "supabaseUrl is required"),
    ] {
        assert!(shown(name).contains(proof), "{name}: {}", shown(name));
    }
}

/// One line that comes near, and must not be taken for the failure.
#[test]
fn what_only_sounds_like_a_failure_proves_nothing() {
    use Phase::{Build, Install};
    let near: &[(&str, Phase, &str)] = &[
        ("heap", Build, "I explain FATAL ERRORS and the JavaScript heap"),
        ("disk", Build, "Error: EDQUOT: disk quota exceeded, write"),
        (
            "lockfile",
            Install,
            "npm warn old lockfile The package-lock.json file was created with an old version of npm",
        ),
        ("peers", Install, "npm warn ERESOLVE overriding peer dependency"),
        ("node-version", Install, "npm warn EBADENGINE Unsupported engine {"),
        ("missing-script", Build, "note: the missing script: build is optional"),
        ("private-package", Install, "npm warn deprecated @acme/x@1.0.0: use https://example.com/@acme/y"),
        ("package-not-found", Install, "npm http fetch GET 404 http://127.0.0.1:4873/x 12ms"),
        ("version-not-found", Install, "npm warn deprecated x@1.0.0: No matching version will be made"),
        (
            "registry",
            Install,
            "npm http fetch GET 503 http://127.0.0.1:4873/is-odd attempt 1 failed with 503",
        ),
        (
            "registry",
            Install,
            "npm error request to http://registry.acme.example/x failed, reason: connect ECONNREFUSED",
        ),
        ("git-dependency", Install, "npm warn git is used for versions"),
        ("native-tools", Install, "gyp info ok"),
        ("case", Build, "src/a.ts(1,1): this file's casing is fine"),
        ("fonts", Build, "Loaded `Inter` from Google Fonts"),
        ("network", Build, "resolved cms.example.com with getaddrinfo"),
        ("variable", Build, "Environments: .env.production"),
        ("missing-module", Build, "(!) Module level directives cause errors when bundled"),
        (
            "static-export",
            Build,
            "⚠ Specified \"headers\" will not automatically work with \"output: export\"",
        ),
        ("prerender", Build, "> Using @sveltejs/adapter-static"),
        ("types", Build, "Linting and checking validity of types ..."),
        ("warnings", Build, "Compiled with warnings."),
        ("syntax", Build, "transforming (12) src/SyntaxErrors.tsx"),
        ("command-not-found", Build, "page /sh: not found.html written"),
    ];
    for (rule, phase, line) in near {
        let decided = decide(&failure(*phase, line, &[]));
        assert!(decided.is_none(), "{rule}: {:?}", decided.map(|(rule, _)| &rule.name));
    }
    for rule in rules::all() {
        assert!(near.iter().any(|(name, ..)| *name == rule.name), "{} has no near miss", rule.name);
    }
}

#[test]
fn only_an_install_of_ours_can_be_the_platforms_fault() {
    let log = "npm error code E503\nnpm error 503 Service Unavailable - GET http://127.0.0.1:4873/is-odd";
    let class = |phase, detected_install| {
        diagnose(&Failure { phase, detected_install, log, files: std::iter::empty() }).map(|c| c.class)
    };
    assert_eq!(class(Phase::Install, true), Some(Fault::Platform));
    assert_eq!(class(Phase::Install, false), None);
    assert_eq!(class(Phase::Build, true), None);
}

#[test]
fn the_case_of_a_name_is_blamed_only_if_nothing_has_the_right_one() {
    let log = "[UNRESOLVED_IMPORT] Could not resolve './components/card' in src/App.tsx";
    let rule = |files: &[&str]| decide(&failure(Phase::Build, log, files)).unwrap().0.name.clone();
    assert_eq!(rule(&["src/components/Card.tsx"]), "case");
    assert_eq!(rule(&["src/components/Card.tsx", "src/components/card.tsx"]), "missing-module");
    assert_eq!(rule(&["src/components/Postcard.tsx"]), "missing-module");
    assert_eq!(rule(&["src/other/Card.tsx"]), "missing-module");
}

#[test]
fn evidence_is_bounded() {
    let line = format!("src/a.ts(1,1): error TS2322: {}\n", "é".repeat(10_000));
    let cause = diagnose(&failure(Phase::Build, &line.repeat(9), &[])).unwrap();
    assert!(cause.evidence.unwrap().len() < 4 * (LINE_BYTES + 8));
    // Of endless output the newest is read, so that a hostile one costs no more.
    let old = format!("src/a.ts(1,1): error TS2322: x\n{}", "\n".repeat(READ));
    assert!(diagnose(&failure(Phase::Build, &old, &[])).is_none());
}
