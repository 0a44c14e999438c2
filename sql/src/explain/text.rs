//! The description as text.

use std::fmt::Write;

use super::{AboveFolds, Bytes, Explanation, FoldPlan, VARIABLE_BYTES, ViewPlan, ViewShape, tidy};

pub(super) fn draw(explanation: &Explanation) -> String {
    let mut text = String::new();
    let written = view(&mut text, "view", &explanation.view).and_then(|()| {
        for below in &explanation.below {
            text.push('\n');
            view(&mut text, if below.part_of.is_some() { "part" } else { "view" }, below)?;
        }
        Ok(())
    });
    written.expect("a String takes whatever is written");
    tidy(&text)
}

fn view(text: &mut String, what: &str, view: &ViewPlan) -> std::fmt::Result {
    writeln!(text, "{what}: {} (id {})", view.view, view.id)?;
    if view.part_of.is_none() {
        writeln!(text, "sql: {}", view.sql)?;
    }
    writeln!(text, "class: {}", view.class.word())?;
    writeln!(text, "reads: {}", view.reads.join(", "))?;
    if let Some(retention) = &view.retention {
        let (column, length) = (&retention.column, retention.length());
        writeln!(
            text,
            "retention: hidden when {column} is {length} before the latest event"
        )?;
    }
    match &view.plan {
        ViewShape::Fold(plan) => fold(text, plan),
        ViewShape::Derived(plan) => above_folds(text, plan),
    }
}

fn fold(text: &mut String, fold: &FoldPlan) -> std::fmt::Result {
    writeln!(text, "\nstream: {}", fold.stream)?;
    writeln!(text, "columns read: {}", fold.columns_read.join(", "))?;
    writeln!(text, "left out: {}", fold.left_out.join(", "))?;
    for window in &fold.windows {
        writeln!(text, "window: {}: {}", window.window, window.put_together)?;
    }
    section(text, "partial (rows to state)", &fold.partial)?;
    writeln!(text, "key columns:")?;
    for key in &fold.keys {
        let (name, data_type) = (&key.column.name, &key.column.data_type);
        writeln!(text, "  {name}: {data_type}, {}{}", bytes(key.bytes), gives(&key.gives))?;
    }
    writeln!(text, "state columns:")?;
    for aggregate in &fold.aggregates {
        writeln!(
            text,
            "  {}: {}, {}, {}{}",
            aggregate.name,
            aggregate.class.word(),
            aggregate.growth.how(),
            bytes(aggregate.bytes),
            gives(&aggregate.gives)
        )?;
        for column in &aggregate.state {
            writeln!(text, "    {}: {}", column.name, column.data_type)?;
        }
    }
    writeln!(
        text,
        "a key with its state: about {} (text taken for {VARIABLE_BYTES} bytes)",
        bytes(fold.bytes_per_key)
    )?;
    writeln!(text, "\nmerge: {}", fold.merge)?;
    section(text, "finish (merged states to answer)", &fold.finish)?;
    match fold.searched_by.as_slice() {
        [] => writeln!(text, "pushed down to stored partials: no filter"),
        searched => {
            let columns: Vec<&str> = searched.iter().map(|searched| searched.column.as_str()).collect();
            writeln!(
                text,
                "pushed down to stored partials: equality with {}; a range where the key columns before it are fixed",
                columns.join(", ")
            )
        }
    }
}

fn above_folds(text: &mut String, plan: &AboveFolds) -> std::fmt::Result {
    section(text, "finished at read time, over the merged answers", &plan.finish)?;
    for pushed in &plan.pushed_down {
        writeln!(
            text,
            "pushed down to the partials of {}: {}",
            pushed.view, pushed.filter
        )?;
    }
    if plan.pushed_down.is_empty() {
        writeln!(text, "pushed down to stored partials: no filter of the view's own")?;
    }
    Ok(())
}

fn section(text: &mut String, title: &str, lines: &[String]) -> std::fmt::Result {
    writeln!(text, "\n{title}:")?;
    lines.iter().try_for_each(|line| writeln!(text, "{line}"))
}

pub(super) fn bytes(bytes: Bytes) -> String {
    match bytes {
        Bytes { fixed, per_item: 0 } => format!("{fixed} bytes"),
        Bytes { fixed, per_item } => format!("{fixed} bytes and {per_item} per item"),
    }
}

fn gives(columns: &[String]) -> String {
    match columns {
        [] => String::new(),
        columns => format!(" -> {}", columns.join(", ")),
    }
}
