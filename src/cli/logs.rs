//! `libra logs`: the build log, whole or as it is written.
//! A stream that breaks is taken up where it broke; lines are neither lost nor shown twice.

use std::time::Duration;

use reqwest::{Method, Response, header};

use super::client::{Session, escape};
use super::error::{CliError, Outcome};
use super::events::{Event, EventReader};
use super::{follow, render};

/// Breaks in a row, without a line between them, after which the server counts as gone.
const BREAKS: u32 = 10;
const BREAK_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// Id of the deployment
    pub id: String,
    /// Stay, and show what is added until the deployment ends
    #[arg(long, short)]
    pub follow: bool,
    /// Print each line as {"line": …}
    #[arg(long)]
    pub json: bool,
}

/// # Errors
/// If the server can't be reached or knows no such deployment.
pub async fn run(args: &LogsArgs, session: &Session) -> Result<Outcome, CliError> {
    let show = |text: &str| {
        if args.json {
            render::line(&serde_json::json!({ "line": text }).to_string())
        } else {
            render::log_line(text)
        }
    };
    let path = format!("/api/v1/deployments/{}/logs", escape(&args.id));
    if args.follow {
        return follow_log(session, &args.id, &path, show).await;
    }
    let response = session.send(session.request(Method::GET, &path)).await?;
    let mut lines = Lines::default();
    read(session, response, |chunk| lines.push(chunk, show)).await?;
    lines.finish(show);
    Ok(Outcome::Done)
}

async fn follow_log(
    session: &Session,
    id: &str,
    path: &str,
    show: impl Fn(&str),
) -> Result<Outcome, CliError> {
    let mut last_id = None;
    let mut breaks = 0;
    loop {
        let mut request = session
            .request(Method::GET, &format!("{path}?follow=1"))
            .header(header::ACCEPT, "text/event-stream");
        if let Some(last) = &last_id {
            request = request.header("Last-Event-ID", last);
        }
        let mut reader = EventReader::default();
        let broken = match session.send(request).await {
            Ok(response) => {
                let mut event = |event: Event| {
                    breaks = 0;
                    last_id = event.id.or(last_id.take());
                    event.data.lines().for_each(&show);
                };
                read(session, response, |chunk| reader.push(chunk, &mut event)).await.err()
            }
            Err(error @ CliError::Unreachable { .. }) => Some(error),
            Err(error) => return Err(error),
        };
        // A stream also ends when a server stops; only the deployment's own end is the end.
        let status = follow::status(session, id).await;
        if let (None, Ok((document, _))) = (&broken, &status)
            && document.is_final()
        {
            return Ok(follow::outcome(document));
        }
        breaks += 1;
        if breaks > BREAKS {
            return Err(broken
                .or(status.err())
                .unwrap_or(CliError::Answer { base_url: session.base_url.clone(), source: None }));
        }
        tokio::time::sleep(BREAK_PAUSE).await;
    }
}

async fn read(
    session: &Session,
    mut response: Response,
    mut each: impl FnMut(&[u8]),
) -> Result<(), CliError> {
    while let Some(chunk) = response.chunk().await.map_err(|source| session.unreachable(source))? {
        each(&chunk);
    }
    Ok(())
}

/// Cuts chunks into lines; a character that spans two chunks stays whole.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn push(&mut self, chunk: &[u8], show: impl Fn(&str)) {
        self.rest.extend_from_slice(chunk);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        String::from_utf8_lossy(&whole).lines().for_each(show);
    }

    fn finish(self, show: impl Fn(&str)) {
        if !self.rest.is_empty() {
            show(&String::from_utf8_lossy(&self.rest));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn lines_stay_whole_across_chunks() {
        let shown = RefCell::new(Vec::new());
        let show = |line: &str| shown.borrow_mut().push(line.to_owned());
        let mut lines = Lines::default();
        for chunk in ["a\nb".as_bytes(), &"é".as_bytes()[..1], &"é".as_bytes()[1..], b"\r\n\nlast"] {
            lines.push(chunk, show);
        }
        lines.finish(show);
        assert_eq!(*shown.borrow(), ["a", "bé", "", "last"]);
    }
}
