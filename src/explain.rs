//! `foldline explain`: what a view compiles to.

use clap::Args;
use foldline_sql::ViewKind;

use crate::Setting;
use crate::failure::Failure;
use crate::output::say;
use crate::pipelines;

/// Print the fold of a view: partial plan, state columns, merge, finish plan
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  foldline explain product_days")]
pub(crate) struct Explain {
    /// Name of the view
    view: String,
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
        say!("view: {} (id {})\nsql: {}", view.name, view.id, view.sql);
        match &view.kind {
            ViewKind::Fold(fold) => say!("{}", fold.explain()),
            ViewKind::Derived(derived) => {
                say!(
                    "reads: {}\n\nfinished at read time, over the merged answers:\n{}",
                    view.reads.join(", "),
                    derived.explain()
                );
                let parts = view.reads.iter().filter_map(|name| catalog.view(name));
                for part in parts.filter(|part| part.part_of.is_some()) {
                    if let ViewKind::Fold(fold) = &part.kind {
                        say!("\npart: {} (id {})\n{}", part.name, part.id, fold.explain());
                    }
                }
            }
        }
        Ok(())
    }
}
