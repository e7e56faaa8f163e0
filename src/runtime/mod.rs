//! Owns where live versions lie and how their bytes are read: packing, the edge's disk, the memory cache.
//! And the way to Workers that are HTTP origins (`upstream`).
//! Never decides which version a host gets (`routing`), and asks no database, broker or blob store.

pub mod cache;
pub mod compress;
pub mod decide;
mod file_part;
pub mod hashed_name;
pub mod lookup;
pub mod manifest;
pub mod media_type;
pub mod pack;
pub mod settings;
pub mod site;
pub mod site_rules;
pub mod store;
#[cfg(test)]
pub mod test_site;
#[cfg(test)]
mod tests;
pub mod upstream;

pub use cache::{BodyCache, ReadError};
pub use decide::{Decision, decide};
pub use file_part::FilePart;
pub use lookup::{Found, find};
pub use manifest::{Manifest, ManifestError};
pub use pack::{PackError, PackedVersion, Source};
pub use settings::Settings;
pub use site::{Encoding, File, SiteVersion};
pub use site_rules::SiteRules;
pub use store::{PackSource, StoreError, VersionId, VersionStore};
