//! `libra serve`.

use std::process::ExitCode;

use crate::app;
use crate::config::Loaded;
use crate::telemetry;

/// Runs the server until it is told to stop.
pub fn run(loaded: Loaded) -> ExitCode {
    let settings = loaded.settings;
    telemetry::start(&settings.log);
    for name in &loaded.without_effect {
        tracing::warn!(variable = name, "this variable is set and has no effect in this release");
    }
    let system = actix_web::rt::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("libra")
            .build()
            .expect("a process that can't start threads can't serve")
    });
    match system.block_on(Box::pin(app::serve(settings))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            super::render::note(&format!("error: {}", crate::domain::cause::chain(&e)));
            ExitCode::from(e.exit_code())
        }
    }
}
