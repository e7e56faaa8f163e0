//! The whole product, tested from outside: real processes, real broker, real sandbox, real sockets.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that can't go on says why and ends")]

mod answers;
mod app;
mod attacked;
mod blocked;
#[path = "../providers/server/mod.rs"]
#[expect(dead_code, reason = "the provider tests ask it more")]
mod cloud;
mod dns;
mod frames;
mod issuer;
mod origin;
mod parts;
mod sockets;
mod tenants;
mod wire;

mod host;

mod browser;
mod build_env;
mod builds;
mod cache;
mod doctor;
mod frameworks;
mod lost_answers;
mod managers;
mod outputs;

mod failing;

mod actors;
mod api_deploy;
mod api_errors;
mod api_projects;
mod attacks;
mod attacks_h2;
mod attacks_slow;
mod big_bodies;
mod broker;
mod cancel;
mod certificates;
mod cli;
mod cluster;
mod database;
mod dead_letters;
mod desk;
mod disk;
mod domain_changes;
mod domain_claims;
mod domains;
mod draining;
mod egress;
mod fair_queue;
mod front_door;
mod idempotency;
mod kept_certificates;
mod kills;
mod last_table;
mod migrate;
mod open_files;
mod openapi;
mod outage;
mod private_authorities;
mod racing;
mod record_to_page;
mod redrives;
mod remote;
mod renewal_info;
mod restarts;
mod s3;
mod secrets;
mod secure_sockets;
mod seeing;
mod serving;
mod serving_alone;
mod site_rules;
mod specified_h2;
mod spine;
mod stopping;
mod streams;
mod switching;
mod templates;
mod tenancy;
mod trickles;
mod trusted_proxies;
mod two_servers;
mod upstreams;
mod versions;
mod waiting;
