//! API keys: how one looks, and whose request carries which. The valid ones are read from the store each second and kept, so that
//! a request costs no question, a wrong key no more than a right one, and a store that is away keeps nobody out.

use std::{
    collections::HashMap,
    fmt,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, header, request::Parts},
    middleware::Next,
    response::Response,
};
use rand::distr::{Alphanumeric, SampleString as _};
use sha2::{Digest as _, Sha256};
use store::{ApiKey, FormerApiKey, Store};

use crate::{
    api::Api,
    cached::Cached,
    patience::Patience,
    problem::{Kind, Problem},
};

/// How often the keys are read again.
const REFRESH: Duration = Duration::from_secs(1);
/// What every key begins with, so that whoever finds one knows what it opens.
const PREFIX: &str = "augur_";
/// Letters and digits after it: 62^43 is more than 2^256.
const RANDOM: usize = 43;

/// The text of an API key. Nothing shows it but [`PlainKey::reveal`].
pub struct PlainKey(String);

impl PlainKey {
    /// A new one, of 256 random bits.
    #[must_use]
    pub fn generate() -> Self {
        Self(PREFIX.to_owned() + &Alphanumeric.sample_string(&mut rand::rng(), RANDOM))
    }

    /// SHA-256 of it: all that is stored.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        digest(&self.0)
    }

    /// The text itself, for whoever is to have it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PlainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainKey(…)")
    }
}

/// Whose request it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Caller {
    /// Whose the predictions are that the caller makes and sees; empty where requests need no key.
    pub(crate) tenant: Arc<str>,
    /// The most of the queue, and of the places for streams, that may be filled with the key; none where requests need no key.
    pub(crate) share: Option<f64>,
}

impl Caller {
    /// A caller with a key.
    pub(crate) fn with_key(tenant: &str, share: f64) -> Self {
        Self { tenant: Arc::from(tenant), share: Some(share) }
    }

    /// The tenant, as the store takes it.
    pub(crate) fn tenant(&self) -> &str {
        &self.tenant
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    /// As [`require`] found it.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get().cloned().ok_or_else(|| {
            tracing::error!(path = parts.uri.path(), "a call that needs a caller is not behind the keys");
            Problem::internal()
        })
    }
}

/// Lets requests through that need no key or carry a valid one, and says whose they are. The key goes no further.
pub(crate) async fn require(
    State(api): State<Arc<Api>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let caller = api.keys.caller(request.headers())?;
    request.headers_mut().remove(header::AUTHORIZATION);
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// The valid keys.
pub(crate) struct Keys {
    store: Store,
    patience: Patience,
    usual_share: f64,
    /// A caller who needs no key.
    anybody: Caller,
    known: Cached<Known>,
    /// Whether requests need a key even while there are none.
    always_required: bool,
}

/// What one reading found. The door closes in the same moment in which the keys that open it are known.
struct Known {
    /// Whether requests need a key. Once they do they always will: a database that was emptied must not open the door.
    are_required: bool,
    valid: ByDigest,
}

/// Valid keys by the first bytes of their digests.
type ByDigest = HashMap<[u8; 8], Vec<Valid>>;

/// A valid key.
struct Valid {
    digest: [u8; 32],
    /// Until when, of a text that another has taken the place of.
    until: Option<Instant>,
    caller: Caller,
}

impl Keys {
    /// None known yet. `usual_share`: of keys that have none of their own. `always_required`: even while there are no keys.
    pub(crate) fn new(store: Store, patience: Patience, usual_share: f64, always_required: bool) -> Self {
        let anybody = Caller { tenant: Arc::from(""), share: None };
        Self { store, patience, usual_share, anybody, known: Cached::empty(), always_required }
    }

    /// Whether requests need a key, as far as is known.
    pub(crate) fn are_required(&self) -> bool {
        self.known.latest().map_or(self.always_required, |known| known.are_required)
    }

    /// Whose request has these headers.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        // While nothing is known nobody is let in.
        let known = self.known.latest().ok_or_else(Problem::store_unavailable)?;
        if !known.are_required {
            return Ok(self.anybody.clone());
        }
        presented(headers).and_then(|digest| find(&known.valid, &digest)).ok_or_else(|| {
            let detail = "This call needs a valid API key: Authorization: Bearer KEY. `augur keys create` makes one.";
            Problem::new(Kind::InvalidApiKey, detail)
        })
    }

    /// Whose what this tenant's key made is: with the usual share when the key is not valid any more.
    pub(crate) fn owner(&self, tenant: &str) -> Caller {
        if tenant.is_empty() {
            return self.anybody.clone();
        }
        let known = self.known.latest();
        let valid =
            known.iter().flat_map(|known| known.valid.values().flatten()).find(|valid| valid.caller.tenant() == tenant);
        valid.map_or_else(|| Caller::with_key(tenant, self.usual_share), |valid| valid.caller.clone())
    }

    /// Reads the keys as they are now.
    pub(crate) async fn refresh(&self) -> Result<(), Problem> {
        let load = || async {
            let keys = self.patience.in_time(self.store.valid_api_keys()).await?;
            // Before the question: a text ends rather a moment too early than too late.
            let now = Instant::now();
            let former = match self.patience.in_time(self.store.former_api_keys()).await {
                Ok(former) => former,
                // The door is open: that there are keys now must close it, whatever else is not known.
                Err(_) if keys.is_some() && self.known.latest().is_some_and(|known| !known.are_required) => Vec::new(),
                Err(problem) => return Err(problem),
            };
            Ok(Known {
                are_required: self.are_required() || keys.is_some(),
                valid: by_digest(keys.unwrap_or_default(), &former, now, self.usual_share),
            })
        };
        self.known.within(Duration::ZERO, load).await.map(drop)
    }
}

/// `now`: when the store was asked for the former texts.
fn by_digest(keys: Vec<ApiKey>, former: &[FormerApiKey], now: Instant, usual_share: f64) -> ByDigest {
    let mut known = ByDigest::new();
    for key in keys {
        let caller = Caller::with_key(&key.tenant(), key.share.unwrap_or(usual_share));
        let former: Vec<_> = former.iter().filter(|former| former.key_id == key.id).collect();
        // Rotated between the two questions, the text that was current is among the former.
        let is_current = former.iter().all(|former| former.digest != key.digest);
        let former = former.into_iter().map(|former| (former.digest, Some(now + former.expires_in)));
        for (digest, until) in former.chain(is_current.then_some((key.digest, None))) {
            let valid = Valid { digest, until, caller: caller.clone() };
            known.entry(beginning(&digest)).or_default().push(valid);
        }
    }
    known
}

/// Reads the keys again and again. While the store is away those that are known stay so.
pub(crate) async fn keep_reading(api: Arc<Api>) {
    let mut ticks = tokio::time::interval(REFRESH);
    loop {
        ticks.tick().await;
        // The store's absence is logged where it is noticed.
        let _ = api.keys.refresh().await;
    }
}

/// The digest of the key in these headers, if it looks like one. What does not is not worth hashing.
fn presented(headers: &HeaderMap) -> Option<[u8; 32]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
    let random = key.trim_matches(' ').strip_prefix(PREFIX)?;
    let is_key = scheme.eq_ignore_ascii_case("bearer")
        && random.len() == RANDOM
        && random.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_key.then(|| digest(key.trim_matches(' ')))
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

fn beginning(digest: &[u8; 32]) -> [u8; 8] {
    let [first, ..] = *digest.as_chunks().0 else { return [0; 8] };
    first
}

/// The caller whose key has this digest. What the first look-up betrays by its time is of a digest, not of a key.
fn find(known: &ByDigest, digest: &[u8; 32]) -> Option<Caller> {
    let alike = known.get(&beginning(digest))?;
    let is_good = |valid: &&Valid| valid.until.is_none_or(|until| Instant::now() < until);
    alike.iter().filter(is_good).find(|valid| are_equal(&valid.digest, digest)).map(|valid| valid.caller.clone())
}

/// Whether two digests are equal, in a time that does not depend on where they differ.
fn are_equal(one: &[u8; 32], other: &[u8; 32]) -> bool {
    let differences = one.iter().zip(other).fold(0, |found, (one, other)| black_box(found | (one ^ other)));
    differences == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::http::HeaderValue;
    use std::collections::HashSet;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn keys_are_random_and_hidden() {
        let keys: HashSet<String> = (0..100).map(|_| PlainKey::generate().reveal().to_owned()).collect();
        assert_eq!(keys.len(), 100);
        for key in keys {
            let random = key.strip_prefix("augur_").unwrap();
            assert!(random.len() == 43 && random.chars().all(|c| c.is_ascii_alphanumeric()), "{key}");
        }
        // Every letter and digit is drawn.
        let drawn: HashSet<char> =
            (0..100).flat_map(|_| PlainKey::generate().reveal()[6..].chars().collect::<Vec<_>>()).collect();
        assert_eq!(drawn.len(), 62);
        assert_eq!(format!("{:?}", PlainKey::generate()), "PlainKey(…)");
    }

    #[test]
    fn a_digest_equals_itself_alone() {
        // From the standard's own example, FIPS 180-4: SHA-256 of "abc".
        assert_eq!(digest("abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
        let one = PlainKey::generate().digest();
        assert!(are_equal(&one, &one.clone()));
        for bit in 0..256 {
            let mut other = one;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!are_equal(&one, &other), "bit {bit}");
        }
        // Differences that cancel each other out in a sum or an exclusive or.
        assert!(!are_equal(&[1; 32], &[2; 32]) && !are_equal(&[0; 32], &[255; 32]));
    }

    #[test]
    fn only_one_whole_key_after_bearer_is_read() {
        let key = PlainKey::generate();
        let text = key.reveal();
        for good in [format!("Bearer {text}"), format!("bearer  {text}"), format!("BEARER {text} ")] {
            assert_eq!(presented(&headers(&[&good])), Some(key.digest()), "{good}");
        }
        let bad = [
            String::new(),
            text.to_owned(),
            "Bearer".to_owned(),
            "Bearer ".to_owned(),
            format!("Bearer{text}"),
            format!("Basic {text}"),
            format!("Bearer Bearer {text}"),
            format!("Bearer {text}x"),
            format!("Bearer {}", &text[..48]),
            format!("Bearer {}", &text[6..]),
            format!("Bearer {}", text.to_uppercase()),
            format!("Bearer {}-", &text[..48]),
            format!("Bearer {}é", &text[..47]),
            format!("Bearer \"{text}\""),
            format!("Bearer {text},Bearer {text}"),
            format!("Bearer {}", "x".repeat(60_000)),
        ];
        for bad in bad {
            assert_eq!(presented(&headers(&[&bad])), None, "{bad}");
        }
        assert_eq!(presented(&headers(&[])), None);
        let good = format!("Bearer {text}");
        assert_eq!(presented(&headers(&[&good, &good])), None);
    }

    #[test]
    fn a_former_text_ends_by_itself() {
        let now = Instant::now();
        let key = |digest| ApiKey {
            id: 7,
            name: "web".to_owned(),
            digest,
            share: None,
            created_at: time::OffsetDateTime::UNIX_EPOCH,
            revoked_at: None,
        };
        let former = |digest, expires_in| FormerApiKey {
            key_id: 7,
            digest,
            expires_at: time::OffsetDateTime::UNIX_EPOCH,
            expires_in,
        };
        let hour = Duration::from_secs(3600);
        let former = [former([1; 32], Duration::ZERO), former([2; 32], hour)];
        let known = by_digest(vec![key([3; 32])], &former, now, 0.5);
        assert_eq!([1, 2, 3].map(|digest| find(&known, &[digest; 32]).is_some()), [false, true, true]);

        let rotated_meanwhile = by_digest(vec![key([2; 32])], &former, now, 0.5);
        let until = |known: &ByDigest| known.values().flatten().map(|valid| valid.until).collect::<Vec<_>>();
        assert!(until(&rotated_meanwhile).iter().all(Option::is_some), "it ends");
        assert!(until(&by_digest(vec![key([2; 32])], &[], now, 0.5)).iter().all(Option::is_none));
    }

    #[test]
    fn keys_whose_digests_begin_alike_are_told_apart() {
        let valid = |last: u8| {
            let mut digest = [7; 32];
            digest[31] = last;
            Valid { digest, until: None, caller: Caller::with_key(&last.to_string(), 1.0) }
        };
        let now = Instant::now();
        let former = |last, until| Valid { until: Some(until), ..valid(last) };
        let former = [former(3, now + Duration::from_secs(3600)), former(4, now)];
        let known = ByDigest::from([([7; 8], [valid(1), valid(2)].into_iter().chain(former).collect())]);
        for last in [1, 2, 3] {
            let caller = find(&known, &valid(last).digest).unwrap();
            assert_eq!(caller.tenant(), last.to_string());
        }
        assert_eq!(find(&known, &valid(4).digest), None, "its grace has ended, whatever is read from the store");
        assert_eq!((find(&known, &[7; 32]), find(&known, &[8; 32])), (None, None));
    }
}
