//! A progress bar on a terminal, nothing elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar for `what`, hidden until the length is known; on anything but a terminal it never shows.
pub(crate) fn bar(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}")
        .expect("the template is well formed");
    let bar = ProgressBar::new(0).with_style(style).with_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A spinner for work without a known length.
pub(crate) fn spinner(what: &str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(what.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(200));
    spinner
}

/// Shows a line `{"done": n, "of": m}` of an admin answer.
pub(crate) fn show(bar: &ProgressBar, line: &serde_json::Value) {
    let number = |key: &str| line.get(key).and_then(serde_json::Value::as_u64);
    if let (Some(done), Some(of)) = (number("rows"), number("of")) {
        bar.set_length(of);
        bar.set_position(done);
    }
    if let Some(step) = line.get("step").and_then(serde_json::Value::as_str) {
        bar.set_message(step.to_owned());
    }
}
