//! `augur models quantize`: makes a version of a model in fewer bits, and shows what it is worth before it is kept.

use inference::Form;
use settings::{Fatal, QuantizeModel, WeightForm};

use super::derive::{Source, derive};

/// Makes it, shows it, and puts it into its place when that is wanted.
pub(crate) async fn quantize(settings: QuantizeModel) -> Result<(), Fatal> {
    let form = form(settings.to);
    let make = move |Source { found, name, to, .. }: Source<'_>| {
        inference::quantize(found, form, name, to)?;
        Ok(None)
    };
    derive(settings.model, settings.derive, form.word(), "quantize", make).await
}

fn form(form: WeightForm) -> Form {
    match form {
        WeightForm::Bf16 => Form::Bf16,
        WeightForm::Int8 => Form::Int8,
        WeightForm::Q8_0 => Form::Q8_0,
        WeightForm::Q4K => Form::Q4K,
    }
}
