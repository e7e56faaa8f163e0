//! Why no plan can be made of a tree, with what to do. Summaries and hints are ours, so anybody may
//! read them; `Display` may name files and settings, and is shown to members only.

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DetectError {
    #[error("neither a package.json nor a page to serve was found{}", seen(.0))]
    Nothing(Vec<String>),
    #[error("{path} is not a JSON object")]
    BadManifest { path: String },
    #[error("{path} has more than {limit} bytes")]
    TooLarge { path: String, limit: usize },
    #[error("{path}, {message}")]
    BadProjectFile { path: String, message: String },
    #[error("package.json has no script named build, and there is no index.html{}", seen(.0))]
    NoBuildScript(Vec<String>),
    #[error("`{path}` ({setting}) is not a path within the project")]
    BadPath { setting: &'static str, path: String },
    #[error("no file of the project lies in build.rootDirectory `{0}`")]
    NoRoot(String),
    #[error("framework `{name}` is not known; known are plain, {known}")]
    UnknownFramework { name: String, known: String },
}

/// Folders that would be one to deploy.
fn seen(folders: &[String]) -> String {
    if folders.is_empty() {
        String::new()
    } else {
        format!("; a package.json lies in {}", folders.join(", "))
    }
}

impl DetectError {
    pub fn summary(&self) -> &'static str {
        match self {
            Self::Nothing(folders) if !folders.is_empty() => {
                "Nothing to deploy at the project's top: several packages lie in folders."
            }
            Self::Nothing(_) => "Nothing to deploy: no package.json and no HTML file.",
            Self::BadManifest { .. } => "package.json can't be read.",
            Self::TooLarge { .. } => "A file that says how to build is too large.",
            Self::BadProjectFile { .. } => "libra.toml can't be read.",
            Self::NoBuildScript(_) => "package.json has no build script.",
            Self::BadPath { .. } => "A build setting is not a path within the project.",
            Self::NoRoot(_) => "The root directory does not exist.",
            Self::UnknownFramework { .. } => "The framework that is set is not known.",
        }
    }

    pub fn hint(&self) -> &'static str {
        match self {
            Self::Nothing(folders) | Self::NoBuildScript(folders) if !folders.is_empty() => {
                "Set build.rootDirectory (libra deploy --root, or root_directory in libra.toml) to the package to deploy; the evidence names some."
            }
            Self::Nothing(_) => {
                "Add an index.html, or a package.json with a build script; or set build.rootDirectory."
            }
            Self::BadManifest { .. } => "Make package.json a valid JSON object.",
            Self::TooLarge { .. } => "Make it smaller; the evidence names the file and the limit.",
            Self::BadProjectFile { .. } => {
                "Mend libra.toml; the evidence names the line and what is allowed."
            }
            Self::NoBuildScript(_) => "Add \"build\" to the scripts of package.json, or set build.command.",
            Self::BadPath { .. } => {
                "Give rootDirectory and outputDirectory relative to the project, without '..'."
            }
            Self::NoRoot(_) => "Set build.rootDirectory to a folder of the project.",
            Self::UnknownFramework { .. } => {
                "Use a name of docs/frameworks.md, or leave the setting out to have it recognised."
            }
        }
    }
}
