//! What each package manager is told, as arguments: installing, scripts, programs of packages, a user's
//! own line. No shell of ours reads any of it.

use super::detect::BuildCommand;
use crate::toolchain::{Choice, Manager};

/// Commands of one build.
pub struct Commands<'a> {
    pub choice: &'a Choice,
}

impl Commands<'_> {
    /// What the lockfile says and nothing else.
    pub fn install_locked(&self) -> Vec<String> {
        words(match self.choice.manager {
            Manager::Npm => &["npm", "ci"],
            Manager::Pnpm => &["pnpm", "install", "--frozen-lockfile"],
            Manager::YarnClassic => &["yarn", "install", "--frozen-lockfile", "--non-interactive"],
            Manager::YarnBerry => &["yarn", "install", "--immutable"],
            Manager::Bun => &["bun", "install", "--frozen-lockfile"],
        })
    }

    /// What package.json allows; the lockfile is made or changed.
    pub fn install_unlocked(&self) -> Vec<String> {
        words(match self.choice.manager {
            Manager::Npm => &["npm", "install"],
            // Both take CI for a wish to keep the lockfile as it is.
            Manager::Pnpm => &["pnpm", "install", "--no-frozen-lockfile"],
            Manager::YarnBerry => &["yarn", "install", "--no-immutable"],
            Manager::YarnClassic => &["yarn", "install", "--non-interactive"],
            Manager::Bun => &["bun", "install"],
        })
    }

    /// Beginnings of the line by which the manager says that the lockfile does not fit package.json.
    pub fn misfit(&self) -> &'static [&'static str] {
        match self.choice.manager {
            Manager::Npm => &["npm error code EUSAGE"],
            Manager::Pnpm => &[
                "ERR_PNPM_OUTDATED_LOCKFILE",
                "ERR_PNPM_LOCKFILE_BREAKING_CHANGE",
                "ERR_PNPM_LOCKFILE_CONFIG_MISMATCH",
                "ERR_PNPM_NO_LOCKFILE",
                "ERR_PNPM_FROZEN_LOCKFILE_WITH_OUTDATED_LOCKFILE",
            ],
            Manager::YarnClassic => &["error Your lockfile needs to be updated"],
            Manager::YarnBerry => &["➤ YN0028"],
            Manager::Bun => &["error: lockfile had changes, but lockfile is frozen"],
        }
    }

    /// The build itself.
    pub fn build(&self, command: &BuildCommand) -> Vec<String> {
        let run = |first: &[&str], rest: &[String]| {
            let mut argv = words(first);
            argv.extend_from_slice(rest);
            argv
        };
        match (command, self.choice.manager) {
            (BuildCommand::Script(name), manager) => words(&[manager.program(), "run", name]),
            (BuildCommand::Tool(tool), Manager::Npm) => run(&["npm", "exec", "--"], tool),
            (BuildCommand::Tool(tool), Manager::Pnpm) => run(&["pnpm", "exec"], tool),
            (BuildCommand::Tool(tool), manager) => run(&[manager.program(), "run"], tool),
            // Without node_modules only yarn itself knows where programs of packages are.
            (BuildCommand::Line(line), Manager::YarnBerry) => run(&["yarn", "exec"], &user_line(line)),
            (BuildCommand::Line(line), _) => user_line(line),
        }
    }

    /// A command where the manager is not at hand, as at providers elsewhere: npm, which comes with every
    /// Node, fetches it by its exact version.
    pub fn fetched(&self, argv: &[String]) -> Vec<String> {
        let manager = self.choice.manager;
        let own = argv.first().is_some_and(|program| program == manager.program());
        match &self.choice.manager_version {
            Some(version) if own && manager != Manager::Npm => {
                let package = format!("--package={}@{version}", manager.package());
                let mut led = words(&["npm", "exec", "--yes", &package, "--"]);
                led.extend_from_slice(argv);
                led
            }
            _ => argv.to_vec(),
        }
    }

    /// Where a manager must be kept from fetching another version of itself, or from changing its mind.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut pairs: Vec<(&str, &str)> = match self.choice.manager {
            Manager::Npm | Manager::Bun => Vec::new(),
            // Read from `npm_config_` up to pnpm 10, from `pnpm_config_` since.
            Manager::Pnpm => vec![
                ("npm_config_store_dir", PNPM_STORE),
                ("npm_config_manage_package_manager_versions", "false"),
                ("npm_config_package_manager_strict", "false"),
                ("npm_config_verify_deps_before_run", "false"),
                ("pnpm_config_store_dir", PNPM_STORE),
                ("pnpm_config_manage_package_manager_versions", "false"),
                ("pnpm_config_pm_on_fail", "ignore"),
                ("pnpm_config_verify_deps_before_run", "false"),
            ],
            // It is the version that was asked for; there is no corepack to ask.
            Manager::YarnClassic => vec![("SKIP_YARN_COREPACK_CHECK", "1")],
            // Without node_modules packages are read from its cache: it has to be kept with what names it.
            Manager::YarnBerry => {
                vec![("SKIP_YARN_COREPACK_CHECK", "1"), ("YARN_ENABLE_GLOBAL_CACHE", "false")]
            }
        };
        if self.choice.ignore_yarn_path {
            pairs.push(("YARN_IGNORE_PATH", "1"));
        }
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

/// On disk beside the project's folder; in memory it would count as memory.
const PNPM_STORE: &str = "/home/build/.pnpm-store";

/// A user's command line, the same language whatever the manager: npm's own runner reads it, inside the
/// sandbox. npm is there with every Node.
pub fn user_line(line: &str) -> Vec<String> {
    words(&["npm", "exec", "--call", line])
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(manager: Manager) -> Choice {
        Choice {
            node_major: 24,
            node_version: "24.0.0".into(),
            manager,
            manager_version: None,
            hash: None,
            workspace: String::new(),
            lockfile: None,
            ignore_yarn_path: false,
            notes: Vec::new(),
        }
    }

    #[test]
    fn every_manager_has_its_own_words() {
        let line = |manager, command: BuildCommand| {
            let choice = choice(manager);
            Commands { choice: &choice }.build(&command).join(" ")
        };
        let script = |manager| line(manager, BuildCommand::Script("build".into()));
        let tool = |manager| line(manager, BuildCommand::Tool(words(&["vite", "build"])));
        let own = |manager| line(manager, BuildCommand::Line("a && b".into()));
        assert_eq!(script(Manager::Npm), "npm run build");
        assert_eq!(script(Manager::YarnBerry), "yarn run build");
        assert_eq!(tool(Manager::Npm), "npm exec -- vite build");
        assert_eq!(tool(Manager::Pnpm), "pnpm exec vite build");
        assert_eq!(tool(Manager::Bun), "bun run vite build");
        assert_eq!(own(Manager::Pnpm), "npm exec --call a && b");
        assert_eq!(own(Manager::YarnBerry), "yarn exec npm exec --call a && b");
        let pnpm = Choice { manager_version: Some("10.1.0".into()), ..choice(Manager::Pnpm) };
        let fetched = |line: &[&str]| Commands { choice: &pnpm }.fetched(&words(line)).join(" ");
        assert_eq!(fetched(&["pnpm", "run", "x"]), "npm exec --yes --package=pnpm@10.1.0 -- pnpm run x");
        assert_eq!(fetched(&["npm", "run", "x"]), "npm run x");
        let berry = choice(Manager::YarnBerry);
        let commands = Commands { choice: &berry };
        assert_eq!(commands.install_locked(), ["yarn", "install", "--immutable"]);
        assert_eq!(commands.install_unlocked(), ["yarn", "install", "--no-immutable"]);
    }
}
