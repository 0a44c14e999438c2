//! The description as a graph for Graphviz: streams, the steps of every fold, and the views.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::text::bytes;
use super::{Explanation, FoldPlan, ViewPlan, ViewShape, tidy};

pub(super) fn draw(explanation: &Explanation) -> String {
    let mut graph = format!("digraph {} {{\n  node [shape=box];\n", quoted(&explanation.view.view));
    let views: Vec<&ViewPlan> = explanation.below.iter().chain([&explanation.view]).collect();
    let streams: BTreeSet<&str> = views
        .iter()
        .filter_map(|view| match &view.plan {
            ViewShape::Fold(fold) => Some(fold.stream.as_str()),
            ViewShape::Derived(_) => None,
        })
        .collect();
    for stream in streams {
        node(
            &mut graph,
            &format!("stream {stream}"),
            "cylinder",
            &[stream.to_owned()],
        );
    }
    for view in views {
        let finish = format!("finish {}", view.view);
        match &view.plan {
            ViewShape::Fold(plan) => fold(&mut graph, &view.view, plan),
            ViewShape::Derived(plan) => {
                let mut lines = vec!["finish, at read time".to_owned()];
                lines.extend(plan.finish.iter().cloned());
                let pushed = plan.pushed_down.iter();
                lines.extend(pushed.map(|pushed| format!("pushed down to {}: {}", pushed.view, pushed.filter)));
                node(&mut graph, &finish, "box", &lines);
                for read in &view.reads {
                    edge(&mut graph, &format!("view {read}"), &finish, "");
                }
            }
        }
        let name = format!("view {}", view.view);
        let mut lines = vec![format!("{} ({})", view.view, view.class.word())];
        let columns = view.columns.iter();
        lines.extend(columns.map(|column| format!("{}: {}", column.name, column.data_type)));
        lines.extend(
            view.retention
                .iter()
                .map(|retention| format!("{} hidden after {}", retention.column, retention.length())),
        );
        node(&mut graph, &name, "ellipse", &lines);
        edge(&mut graph, &finish, &name, "");
    }
    graph += "}\n";
    graph
}

fn fold(graph: &mut String, view: &str, fold: &FoldPlan) {
    let (partial, merge, finish) = (
        format!("partial {view}"),
        format!("merge {view}"),
        format!("finish {view}"),
    );
    let mut lines = vec![
        "partial".to_owned(),
        format!("columns: {}", fold.columns_read.join(", ")),
        format!("left out: {}", fold.left_out.join(", ")),
    ];
    lines.extend(fold.partial.iter().cloned());
    node(graph, &partial, "box", &lines);
    edge(graph, &format!("stream {}", fold.stream), &partial, "");

    let mut lines = vec![format!("merge: {}", fold.merge)];
    lines.extend(fold.keys.iter().map(|key| {
        let (name, data_type) = (&key.column.name, &key.column.data_type);
        format!("key {name}: {data_type}")
    }));
    for aggregate in &fold.aggregates {
        let (name, class, how) = (&aggregate.name, aggregate.class.word(), aggregate.growth.how());
        lines.push(format!("state {name}: {class}, {how}, {}", bytes(aggregate.bytes)));
    }
    let windows = fold.windows.iter();
    lines.extend(windows.map(|window| format!("{}: {}", window.window, window.put_together)));
    node(graph, &merge, "box", &lines);
    edge(
        graph,
        &partial,
        &merge,
        &format!("per key: {}", bytes(fold.bytes_per_key)),
    );

    let mut lines = vec!["finish".to_owned()];
    lines.extend(fold.finish.iter().cloned());
    let searched = fold.searched_by.iter();
    lines.extend(searched.map(|searched| format!("searched by {} (key {})", searched.column, searched.key)));
    node(graph, &finish, "box", &lines);
    edge(graph, &merge, &finish, "");
}

fn node(graph: &mut String, id: &str, shape: &str, lines: &[String]) {
    // Lines that end with \l stand left.
    let label: String = lines.iter().map(|line| escaped(&tidy(line)) + "\\l").collect();
    writeln!(graph, "  {} [shape={shape}, label=\"{label}\"];", quoted(id)).expect("a String takes it");
}

fn edge(graph: &mut String, from: &str, to: &str, label: &str) {
    let label = match label {
        "" => String::new(),
        label => format!(" [label={}]", quoted(label)),
    };
    writeln!(graph, "  {} -> {}{label};", quoted(from), quoted(to)).expect("a String takes it");
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
