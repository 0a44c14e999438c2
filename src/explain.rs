//! `foldline explain`: what a view compiles to.

use clap::{Args, ValueEnum};
use foldline_sql::explain::Explanation;

use crate::Setting;
use crate::failure::Failure;
use crate::output::{say, write};
use crate::pipelines;

/// Print the fold of a view: classes, state and its bytes per key, merge, finish plan, what is pushed down
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  foldline explain product_days\n  foldline explain product_days --format dot | dot -Tsvg > fold.svg"
)]
pub(crate) struct Explain {
    /// Name of the view
    view: String,
    /// Text for people, JSON for programs, a graph for Graphviz
    #[arg(long, value_enum, default_value = "text")]
    format: Drawing,
}

/// How a fold is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Drawing {
    Text,
    Json,
    Dot,
}

impl Explain {
    /// Prints it.
    pub(crate) async fn run(self, setting: Setting) -> anyhow::Result<()> {
        let files = pipelines::read(&setting.merged.settings.pipelines)?;
        let catalog = pipelines::compile(&files).await?;
        let Some(view) = catalog.view(&self.view) else {
            let known: Vec<&str> = catalog.views().iter().map(|view| view.name.as_str()).collect();
            let sentence = format!("there is no view \"{}\"; there are: {}", self.view, known.join(", "));
            return Err(Failure::Usage(sentence).into());
        };
        let explanation = Explanation::new(&catalog, view)?;
        match self.format {
            Drawing::Text => write(explanation.text().as_bytes()),
            Drawing::Json => say!("{}", serde_json::to_string_pretty(&explanation)?),
            Drawing::Dot => write(explanation.dot().as_bytes()),
        }
        Ok(())
    }
}
