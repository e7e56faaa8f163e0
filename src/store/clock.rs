//! The database's clock: the only clock that leases are measured with.

use sea_orm::{ConnectionTrait, DbBackend, Statement};

use super::StoreError;

/// Milliseconds since 1970 (UTC).
pub async fn now<C: ConnectionTrait>(connection: &C) -> Result<i64, StoreError> {
    let backend = connection.get_database_backend();
    let sql = match backend {
        DbBackend::Sqlite => "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER) AS now",
        _ => "SELECT CAST(floor(extract(epoch from clock_timestamp()) * 1000) AS BIGINT) AS now",
    };
    let row = connection
        .query_one_raw(Statement::from_string(backend, sql))
        .await?
        .ok_or(StoreError::Corrupt { what: "clock" })?;
    Ok(row.try_get::<i64>("", "now")?)
}
