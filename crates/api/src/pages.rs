//! Pages of lists: how long one is, where it begins, and the addresses of the pages beside it.

use crate::{
    api::Api,
    cursor::{Position, Signer},
    keys::Caller,
    problem::{Kind, Problem},
    query::{self, Parameters},
};

/// The most entries on a page, and how many there are on one when nothing else is asked for.
const LONGEST_PAGE: u32 = 100;
const USUAL_PAGE: u32 = 25;

/// The page that is asked for.
pub(crate) struct Asked<'a, P> {
    /// The most entries on it.
    pub(crate) limit: u32,
    /// Where it begins, if not at the newest.
    pub(crate) position: Option<P>,
    caller: &'a Caller,
    signer: &'a Signer,
    base: &'a str,
    /// The path of the list.
    list: String,
    /// The filters as a query, always written alike: cursors are bound to it.
    filters: String,
}

impl<'a, P: Position> Asked<'a, P> {
    /// Takes `limit` and `cursor` for the list at this path with these filters, and refuses what nobody took.
    pub(crate) async fn read(
        api: &'a Api,
        caller: &'a Caller,
        mut parameters: Parameters,
        list: impl Into<String>,
        filters: String,
    ) -> Result<Self, Problem> {
        let limit = parameters.take("limit", "a number from 1 to 100", |text| {
            text.parse().ok().filter(|limit| (1..=LONGEST_PAGE).contains(limit))
        })?;
        let cursor = parameters.take("cursor", "a cursor", |text| Some(text.to_owned()))?;
        parameters.finish()?;
        let (signer, list) = (api.signer().await?, list.into());
        let position = match cursor {
            Some(text) => Some(signer.open(&text, caller.tenant(), &list, &filters).ok_or_else(|| {
                Problem::new(
                    Kind::InvalidCursor,
                    "The cursor was not made for this list; take it from next or previous.",
                )
            })?),
            None => None,
        };
        Ok(Self { limit: limit.unwrap_or(USUAL_PAGE), position, caller, signer, base: &api.base, list, filters })
    }

    /// The address of the page that begins there.
    pub(crate) fn address(&self, position: Option<P>) -> Option<String> {
        let cursor = self.signer.seal(&position?, self.caller.tenant(), &self.list, &self.filters);
        let page = query::write([("limit", self.limit.to_string().as_str()), ("cursor", &cursor)]);
        let separator = if self.filters.is_empty() { "" } else { "&" };
        Some(format!("{}{}?{}{separator}{page}", self.base, self.list, self.filters))
    }
}
