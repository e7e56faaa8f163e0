//! What `POST /deploy` and `PUT …/files` take, as the OpenAPI document shows it: as exact as a
//! schema can say it. Never read into; `deploy_body` is the one reader.

#![expect(dead_code, reason = "documents requests; `deploy_body` is their one reader")]

use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::{ArrayBuilder, ObjectBuilder, Ref, Type};

use crate::domain::Target;

/// One file: text, or bytes in base64.
#[derive(utoipa::ToSchema)]
#[schema(as = InitFile)]
#[serde(untagged)]
pub enum InitFileBody {
    Text(TextFile),
    Base64(Base64File),
}

#[derive(utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TextFile {
    /// Relative, with `/` between folders; a name has at most 255 bytes, a path 1024.
    #[schema(
        max_length = 1024,
        example = "index.html",
        pattern = r"^(?![A-Za-z]:)(?!([^/]*/)*\.\.?(/|$))[^/\\\x00-\x1f\x7f-\x9f]{1,255}(/[^/\\\x00-\x1f\x7f-\x9f]{1,255})*$"
    )]
    path: String,
    content: String,
    #[schema(inline)]
    encoding: Option<Utf8>,
}

#[derive(utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
enum Utf8 {
    Utf8,
}

#[derive(utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Base64File {
    /// As in `TextFile`.
    #[schema(
        max_length = 1024,
        example = "logo.png",
        pattern = r"^(?![A-Za-z]:)(?!([^/]*/)*\.\.?(/|$))[^/\\\x00-\x1f\x7f-\x9f]{1,255}(/[^/\\\x00-\x1f\x7f-\x9f]{1,255})*$"
    )]
    path: String,
    /// Standard base64 with padding.
    #[schema(pattern = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$")]
    content: String,
    #[schema(inline)]
    encoding: Base64,
}

#[derive(utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
enum Base64 {
    Base64,
}

#[derive(utoipa::ToSchema)]
#[schema(as = HistoryMessage)]
#[serde(deny_unknown_fields)]
struct HistoryMessageBody {
    #[schema(inline)]
    role: Role,
    /// Conversation, or a JSON object `{"type":"diff","diff":[{"type":"create"|"edit"|"delete","path","modified"}]}`
    /// that is replayed over the source tree.
    content: String,
}

#[derive(utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
enum Role {
    User,
    Assistant,
    System,
}

#[derive(utoipa::ToSchema)]
#[schema(as = BuildOverrides)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BuildBody {
    /// Instead of the build script.
    #[schema(max_length = 1000, pattern = r"^[^\x00]*$", example = "npm run build")]
    command: Option<String>,
    /// Where the build writes, relative to the project; `.` is its root.
    #[schema(
        max_length = 1024,
        example = "dist",
        pattern = r"^(\./)*(|\.|(?![A-Za-z]:)(?!([^/]*/)*\.\.?(/|$))[^/\\\x00-\x1f\x7f-\x9f]{1,255}(/[^/\\\x00-\x1f\x7f-\x9f]{1,255})*/*)$"
    )]
    output_directory: Option<String>,
    /// Instead of `npm ci` or `npm install`; empty installs nothing.
    #[schema(max_length = 1000, pattern = r"^[^\x00]*$", example = "npm ci")]
    install_command: Option<String>,
    /// The project's folder within the source tree.
    #[schema(
        max_length = 1024,
        example = "apps/web",
        pattern = r"^(\./)*(|\.|(?![A-Za-z]:)(?!([^/]*/)*\.\.?(/|$))[^/\\\x00-\x1f\x7f-\x9f]{1,255}(/[^/\\\x00-\x1f\x7f-\x9f]{1,255})*/*)$"
    )]
    root_directory: Option<String>,
    /// Instead of recognising it; `plain` builds nothing.
    #[schema(schema_with = frameworks)]
    framework: Option<String>,
    /// Instead of `.nvmrc` and `engines.node`.
    #[schema(max_length = 64, pattern = r"^[^\x00]*$", example = "22")]
    node: Option<String>,
    /// Instead of `packageManager` in package.json and of the lockfile.
    #[schema(max_length = 64, pattern = r"^[^\x00]*$", example = "pnpm@10")]
    package_manager: Option<String>,
    /// `false` forgets what earlier builds kept of dependencies and of the framework's own caches.
    cache: Option<bool>,
}

fn frameworks() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
        .enum_values(Some(
            crate::pipeline::frameworks().into_iter().map(Some).chain([None]).collect::<Vec<_>>(),
        ))
        .description(Some("Instead of recognising it; `plain` builds nothing."))
}

/// The body of `POST /deploy`. `null` counts as absent.
#[derive(utoipa::ToSchema)]
#[schema(as = DeployRequest)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeployBody {
    #[schema(pattern = "^[0-9a-f]{32}$", example = "0f8fad5bd9cb469fa16570867728950e")]
    project_id: String,
    /// Must be the organization of the credential.
    #[schema(pattern = "^[0-9a-f]{32}$", example = "7c9e6679742540de944be07fc1f90ae7")]
    org_id: String,
    /// Must be the user of the credential.
    #[schema(pattern = "^[0-9a-f]{32}$", example = "3f333df690a44fda8dd39485d27cee36")]
    user_id: String,
    /// A domain to claim; it is served once its TXT record proves it. No public suffix, no
    /// address of the platform.
    #[schema(
        max_length = 246,
        example = "shop.example.com",
        pattern = r"^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}$"
    )]
    custom_domain: Option<String>,
    #[schema(schema_with = optional_files)]
    init_files: Option<()>,
    /// Replayed over the tree, in order; at most 1,000.
    history_messages: Option<Vec<HistoryMessageBody>>,
    target: Option<Target>,
    #[schema(max_length = 255, pattern = r"^[^\x00]*$", example = "main")]
    branch: Option<String>,
    #[schema(max_length = 255, pattern = r"^[^\x00]*$", example = "4fdfec3")]
    commit: Option<String>,
    #[schema(max_length = 2000, pattern = r"^[^\x00]*$", example = "Add the contact page")]
    message: Option<String>,
    #[schema(schema_with = env)]
    env: Option<()>,
    /// Whether queued older deployments of the same project and target are cancelled; default true.
    supersede: Option<bool>,
    build: Option<BuildBody>,
}

/// The body of `PUT …/files`.
#[derive(utoipa::ToSchema)]
#[schema(as = FilesRequest)]
#[serde(deny_unknown_fields)]
pub struct FilesBody {
    /// The whole tree: what is not in it is removed.
    #[schema(schema_with = files)]
    files: (),
}

fn files() -> ArrayBuilder {
    ArrayBuilder::new().items(Ref::from_schema_name("InitFile")).min_items(Some(1)).unique_items(true)
}

fn optional_files() -> ArrayBuilder {
    let description = "Replaces the stored tree of the project; at most 10,000 files. No two paths may be the \
        same where case does not count, and none a folder of another.";
    files().schema_type(SchemaType::from_iter([Type::Array, Type::Null])).description(Some(description))
}

fn env() -> ObjectBuilder {
    let name = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[A-Za-z_][A-Za-z0-9_]*$"));
    let value = ObjectBuilder::new().schema_type(Type::String).pattern(Some(r"^[^\x00]*$"));
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
        .property_names(Some(name.max_length(Some(255))))
        .additional_properties(Some(value))
        .max_properties(Some(100))
        .description(Some("Variables of the build: encrypted at rest, given to the build only."))
}
