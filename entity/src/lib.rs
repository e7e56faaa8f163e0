//! Tables as sea-orm models, no behaviour.
//!
//! Times are milliseconds since 1970 (UTC) by the database's clock; ids are 32 hex digits.

pub mod acme_account;
pub mod acme_attempt;
pub mod acme_challenge;
pub mod api_token;
pub mod app_user;
pub mod blob_ref;
pub mod build_log;
pub mod builder_node;
pub mod certificate;
pub mod certificate_lease;
pub mod custom_domain;
pub mod dead_letter;
pub mod deployment;
pub mod deployment_attempt;
pub mod deployment_event;
pub mod deployment_step;
pub mod edge_node;
pub mod host_change;
pub mod idempotency_key;
pub mod live_change;
pub mod membership;
pub mod org_queue;
pub mod organization;
pub mod project;
pub mod project_pace;
pub mod project_target;
pub mod queue_grant;
pub mod queue_turn;
pub mod quota_entry;
pub mod quota_period;
pub mod route_epoch;
pub mod upstream;
pub mod version;
