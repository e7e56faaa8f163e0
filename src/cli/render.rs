//! Everything the client commands print: results on standard output, all else on standard error.
//! Never prints what a build wrote without taking out what would steer the reader's terminal.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::wire::{QueueDocument, STEPS, StatusDocument};

/// A result, on standard output. A reader that has gone away is no error: `libra logs ID | head`.
pub fn line(text: &str) {
    drop(writeln!(io::stdout().lock(), "{text}"));
}

/// News for the person in front, on standard error.
pub fn note(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// A line of a build's log: as it is into a file or pipe, made harmless on a terminal.
pub fn log_line(text: &str) {
    if io::stdout().is_terminal() { line(&harmless(text)) } else { line(text) }
}

/// Keeps colours (`ESC [ … m`) and tabs, drops every other control character and sequence.
#[must_use]
pub fn harmless(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(next) = rest.next() {
        if next == '\u{1b}' {
            let mut ahead = rest.clone();
            let mut sequence = String::from("\u{1b}");
            if ahead.next() == Some('[') {
                sequence.push('[');
                let parameters: String =
                    ahead.clone().take_while(|c| c.is_ascii_digit() || *c == ';').collect();
                let last = ahead.nth(parameters.len());
                sequence.push_str(&parameters);
                if last == Some('m') {
                    sequence.push('m');
                    kept.push_str(&sequence);
                }
                rest = ahead;
            }
        } else if next == '\t' || !next.is_control() {
            kept.push(next);
        }
    }
    kept
}

/// Shows a deployment as it moves: live lines and a bar on a terminal, plain lines elsewhere.
pub struct Progress {
    view: View,
    shown: BTreeMap<String, String>,
    attempt: u32,
}

enum View {
    Bars(Bars),
    Lines,
}

struct Bars {
    steps: Vec<ProgressBar>,
    total: ProgressBar,
}

impl Progress {
    #[must_use]
    pub fn new() -> Self {
        let view = if io::stderr().is_terminal() { View::Bars(Bars::new()) } else { View::Lines };
        Self { view, shown: BTreeMap::new(), attempt: 0 }
    }

    /// Shows what changed since the last document.
    pub fn show(&mut self, document: &StatusDocument) {
        if document.attempt > 1 && document.attempt != self.attempt {
            let text = format!("attempt {} of {}", document.attempt, document.max_attempts);
            match &self.view {
                View::Bars(bars) => bars.start_again(&text),
                View::Lines => note(&text),
            }
            // Steps of the new attempt are news even where their words are the same.
            self.shown.clear();
        }
        self.attempt = document.attempt;
        if let (View::Lines, Some(queue)) = (&self.view, &document.queue) {
            // When it starts is news each time; what it waits for is not.
            let words = QueueDocument { eta: None, ..queue.clone() }.words();
            if self.shown.insert("queue".to_owned(), words.clone()).as_ref() != Some(&words) {
                note(&format!("queue: {}", queue.words()));
            }
        }
        for (index, name) in STEPS.into_iter().enumerate() {
            let Some(step) = document.steps.get(name) else { continue };
            if step.status == "pending" || self.shown.get(name) == Some(&step.status) {
                continue;
            }
            self.shown.insert(name.to_owned(), step.status.clone());
            let took = seconds_between(step.started_at.as_deref(), step.finished_at.as_deref());
            let words = describe(&step.status, took);
            match &self.view {
                View::Bars(bars) => bars.step(index, &step.status, words),
                View::Lines => note(&format!("{name}: {words}")),
            }
        }
        if let View::Bars(bars) = &self.view {
            bars.total.set_position(document.progress.into());
            let waits = document.queue.as_ref().map(|queue| format!(": {}", queue.words()));
            let status = document.status.replace('_', " ");
            bars.total.set_message(format!("{status}{}", waits.unwrap_or_default()));
        }
    }

    /// Leaves the last picture standing.
    pub fn finish(self) {
        if let View::Bars(bars) = self.view {
            for bar in bars.steps.iter().chain([&bars.total]) {
                bar.abandon();
            }
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let steps = STEPS
            .into_iter()
            .map(|name| {
                let bar = all.add(ProgressBar::new_spinner().with_style(style("  {prefix:<10} {msg}")));
                bar.set_prefix(name);
                bar.tick();
                bar
            })
            .collect();
        let total =
            all.add(ProgressBar::new(100).with_style(style("  [{bar:40}] {pos:>3} %  {msg}  {elapsed}")));
        total.enable_steady_tick(Duration::from_millis(250));
        Self { steps, total }
    }

    fn start_again(&self, news: &str) {
        self.total.println(news);
        for (index, _) in STEPS.iter().enumerate() {
            self.step(index, "pending", String::new());
        }
    }

    fn step(&self, index: usize, status: &str, words: String) {
        let bar = &self.steps[index];
        let template = if status == "in_progress" { "{spinner} {prefix:<10} {msg}" } else { "{msg}" };
        bar.set_style(style(template));
        if status == "in_progress" {
            bar.set_message(words);
            bar.enable_steady_tick(Duration::from_millis(100));
        } else {
            bar.disable_steady_tick();
            bar.set_message(format!("{} {:<10} {words}", mark(status), STEPS[index]));
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is a constant of this file and tested")
}

fn mark(status: &str) -> char {
    match status {
        "completed" => '✓',
        "failed" => '✗',
        "skipped" => '-',
        _ => ' ',
    }
}

fn describe(status: &str, took: Option<f64>) -> String {
    let words = match status {
        "in_progress" => "running",
        "completed" => "done",
        other => other,
    };
    match took {
        Some(seconds) if status != "in_progress" => format!("{words} in {seconds:.1} s"),
        _ => words.to_owned(),
    }
}

fn seconds_between(from: Option<&str>, to: Option<&str>) -> Option<f64> {
    let parse =
        |text: &str| time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok();
    Some((parse(to?)? - parse(from?)?).as_seconds_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_can_colour_the_terminal_and_nothing_else() {
        assert_eq!(harmless("\u{1b}[1;32mok\u{1b}[0m\tx"), "\u{1b}[1;32mok\u{1b}[0m\tx");
        assert_eq!(harmless("a\u{1b}[2Jb\u{1b}[1;1Hc"), "abc");
        assert_eq!(harmless("a\u{1b}]0;title\u{7}b\r\u{8}"), "a]0;titleb");
        assert_eq!(harmless("\u{1b}"), "");
        assert_eq!(harmless("\u{1b}[31"), "");
        assert_eq!(harmless("a\u{9b}31mb"), "a31mb");
    }

    #[test]
    fn every_template_is_valid() {
        let bars = Bars::new();
        bars.step(0, "in_progress", "running".into());
        bars.step(0, "completed", "done".into());
    }

    #[test]
    fn a_finished_step_says_how_long_it_took() {
        let took = seconds_between(Some("2026-01-01T00:00:00.500Z"), Some("2026-01-01T00:00:02Z"));
        assert_eq!(describe("completed", took), "done in 1.5 s");
        assert_eq!(describe("in_progress", None), "running");
        assert_eq!(describe("skipped", None), "skipped");
    }
}
