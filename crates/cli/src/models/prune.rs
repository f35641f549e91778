//! `augur models prune`: makes a version of a model without what matters least in it, and shows what it is worth before it is kept.

use inference::Cut;
use settings::{Fatal, PruneModel};

use super::derive::{Source, derive};

/// Makes it, shows it, and puts it into its place when that is wanted.
pub(crate) async fn prune(settings: PruneModel) -> Result<(), Fatal> {
    let cut = match (settings.heads, settings.layers, settings.sparsity) {
        (Some(count), None, None) => Cut::Heads(count),
        (None, Some(count), None) => Cut::Layers(count),
        (None, None, Some(share)) => Cut::Sparsity(share),
        _ => return Err(Fatal::new("one of --heads, --layers and --sparsity says what to remove")),
    };
    let make = move |Source { found, inputs, name, to, machine }: Source<'_>| {
        inference::prune(found, cut, inputs, name, to, machine).map(Some)
    };
    derive(settings.model, settings.derive, &cut.words(), "prune", make).await
}
