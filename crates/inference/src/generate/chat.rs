//! Conversations as prompts: the chat template that a GGUF file brings, which is a Jinja template, rendered as transformers does it.

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, context, syntax::SyntaxConfig, value::Value as Any,
};
use minijinja_contrib::pycompat;
use serde::Deserialize;

use crate::{
    LoadError,
    gguf::{Gguf, Value},
};

/// Steps that a template may take, and memory of 64 bytes each: some hundred times what conversations need.
const FUEL: u64 = 1_000_000;

/// The template's name in its environment.
const NAME: &str = "chat";

/// One message of a conversation.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    pub(super) role: String,
    pub(super) content: String,
}

/// A chat template.
pub(super) struct Chat {
    environment: Environment<'static>,
    /// What begins and ends a text, written out.
    begin: String,
    end: String,
}

impl Chat {
    /// That of a file, if it has one that renders here.
    ///
    /// # Errors
    /// When it is not a text.
    pub(super) fn read(gguf: &Gguf) -> Result<Option<Self>, LoadError> {
        let Some(template) = gguf.find("tokenizer.chat_template", Value::text)? else { return Ok(None) };
        let tokens = gguf.find("tokenizer.ggml.tokens", Value::texts)?.unwrap_or_default();
        let written = |name: &str| {
            let id = gguf.find(&format!("tokenizer.ggml.{name}_token_id"), Value::count)?;
            Ok(id.and_then(|id| tokens.get(id)).cloned().unwrap_or_default())
        };
        let mut environment = Environment::new();
        // Whitespace and methods as transformers sets them.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| gguf.wrong(error.to_string()))?);
        environment.set_unknown_method_callback(pycompat::unknown_method_callback);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        environment.add_function("raise_exception", |reason: String| -> Result<Any, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, reason))
        });
        let added = environment.add_template_owned(NAME, template.to_owned());
        let chat = Self { environment, begin: written("bos")?, end: written("eos")? };
        let hello = [Message { role: "user".into(), content: "Hello".into() }];
        let rendered = added.map_err(|error| error.to_string()).and_then(|()| chat.prompt(&hello));
        if let Err(reason) = &rendered {
            tracing::warn!(reason, "the chat template does not render here: the model takes prompts alone");
        }
        Ok(rendered.is_ok().then_some(chat))
    }

    /// The prompt that a conversation makes, up to where the assistant's next message begins. Special tokens are written out.
    ///
    /// # Errors
    /// Says why the template refuses it.
    pub(super) fn prompt(&self, messages: &[Message]) -> Result<String, String> {
        let message =
            |message: &Message| context! { role => message.role.as_str(), content => message.content.as_str() };
        let messages: Any = messages.iter().map(message).collect();
        let given = context! {
            messages, add_generation_prompt => true, bos_token => self.begin.as_str(), eos_token => self.end.as_str(),
        };
        let reason = |error: Error| error.detail().map_or_else(|| error.to_string(), str::to_owned);
        self.environment.get_template(NAME).and_then(|template| template.render(given)).map_err(reason)
    }
}
