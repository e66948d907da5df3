//! Who may look: a token, sent as a bearer token or exchanged for a cookie, and a limit on guessing.
//!
//! The cookie holds a time and its HMAC under the token: it is valid until then, also after a restart, and for no other
//! token. Its name is of the token too: browsers send cookies to all ports of a host name, where other pages may be.
//!
//! Invariants
//! - Without a token configured everybody who can connect may look (the configuration allows that on loopback only).
//! - Comparing takes the same time whatever was sent.
//! - After [`MOST_WRONG`] wrong tokens within [`WITHIN`], an address is not heard for a while; those who are logged in are,
//!   and whoever has a token of at least [`LONG`] bytes: nobody guesses it, however often, and behind a proxy one visitor's
//!   wrong tokens must not lock all others out. Shorter ones are not heard either: there the limit is what stops guessing.
//! - The table of addresses is bounded. While it is full, all addresses that are not in it count as one.

use crate::error::ApiError;
use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use parking_lot::Mutex;
use sha2::Sha256;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// What the cookie's name begins with.
const COOKIE: &str = "tidewatch";

/// How long somebody stays logged in, seconds.
const LOGGED_IN: u64 = 7 * 24 * 3600;

/// So many wrong tokens are answered.
const MOST_WRONG: u32 = 10;

/// Within this time; and so long the address is not heard after them.
const WITHIN: Duration = Duration::from_secs(60);

/// Bytes of a token that nobody guesses: 128 bits, written as hexadecimal digits.
const LONG: usize = 32;

/// Addresses remembered.
const ADDRESSES: usize = 4096;

/// All that find no room there. Nobody has this address.
const OTHERS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// The token, and how often each address was wrong.
pub struct Auth {
    token: Option<Token>,
    wrong: Mutex<HashMap<IpAddr, Wrong>>,
}

struct Token {
    key: Vec<u8>,
    /// HMAC of the token under itself: what an offered token must give.
    proof: Vec<u8>,
    /// The cookie's name.
    cookie: String,
}

struct Wrong {
    count: u32,
    since: Instant,
}

/// What a request shows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It may look.
    Valid,
    /// Nothing.
    Nothing,
    /// A cookie that is over or of another token.
    Stale,
}

fn mac(key: &[u8], text: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of HMAC may have any length");
    mac.update(text);
    mac
}

impl Auth {
    /// With this token.
    pub fn new(token: Option<&str>) -> Auth {
        let token = token.map(|token| {
            let key = token.as_bytes().to_vec();
            let proof = mac(b"tidewatch token", &key).finalize().into_bytes().to_vec();
            let name = mac(&key, b"tidewatch cookie").finalize().into_bytes();
            let cookie = format!("{COOKIE}-{}", URL_SAFE_NO_PAD.encode(&name[..6]));
            Token { key, proof, cookie }
        });
        Auth { token, wrong: Mutex::default() }
    }

    /// Whether a token is needed at all.
    pub fn is_needed(&self) -> bool {
        self.token.is_some()
    }

    /// Whether a request comes with a cookie of this token's name, whatever it holds.
    pub fn has_cookie(&self, headers: &HeaderMap) -> bool {
        self.token.as_ref().is_some_and(|token| cookies(headers, &token.cookie).next().is_some())
    }

    /// Looks at what a request shows.
    ///
    /// # Errors
    /// 401 after a wrong bearer token, 429 after many.
    pub fn look(&self, headers: &HeaderMap, from: IpAddr, now: u64) -> Result<Shown, ApiError> {
        let Some(token) = &self.token else { return Ok(Shown::Valid) };
        let mut stale = false;
        for cookie in cookies(headers, &token.cookie) {
            if token.knows(cookie, now) {
                return Ok(Shown::Valid);
            }
            stale = true;
        }
        match bearer(headers) {
            Some(offered) => self.try_token(offered, from).map(|()| Shown::Valid),
            None if stale => Ok(Shown::Stale),
            None => Ok(Shown::Nothing),
        }
    }

    /// Whether `offered` is the token.
    ///
    /// # Errors
    /// 401 where it is not, 429 after many that were not.
    pub fn try_token(&self, offered: &[u8], from: IpAddr) -> Result<(), ApiError> {
        let Some(token) = &self.token else { return Ok(()) };
        let is_right = mac(b"tidewatch token", offered).verify_slice(&token.proof).is_ok();
        if is_right && token.key.len() >= LONG {
            return Ok(());
        }
        let mut from = network(from);
        let mut all = self.wrong.lock();
        if all.len() >= ADDRESSES && !all.contains_key(&from) {
            all.retain(|_, wrong| wrong.since.elapsed() < WITHIN);
            if all.len() >= ADDRESSES {
                // With so many guessing at once, a new one is limited together with the rest.
                from = OTHERS;
            }
        }
        if let Some(wrong) = all.get(&from) {
            let gone = wrong.since.elapsed();
            if gone >= WITHIN {
                all.remove(&from);
            } else if wrong.count >= MOST_WRONG {
                return Err(ApiError::rate_limited((WITHIN - gone).as_secs() + 1));
            }
        }
        if is_right {
            return Ok(());
        }
        let wrong = all.entry(from).or_insert(Wrong { count: 0, since: Instant::now() });
        wrong.count += 1;
        if wrong.count == MOST_WRONG {
            // From the last one on.
            wrong.since = Instant::now();
            tracing::warn!(address = %from, attempts = MOST_WRONG, "many wrong tokens for the page; logins are refused for a minute");
        }
        Err(ApiError::wrong_token())
    }

    /// The cookie's name; of pages with other tokens it is another one.
    pub fn cookie_name(&self) -> &str {
        self.token.as_ref().map_or(COOKIE, |token| &token.cookie)
    }

    /// What the cookie of somebody who logs in at `now` (ms) holds, and for how long it is valid, in seconds.
    pub fn cookie(&self, now: u64) -> Option<(String, u64)> {
        let token = self.token.as_ref()?;
        let until = (now / 1000 + LOGGED_IN).to_string();
        let proof = mac(&token.key, until.as_bytes()).finalize().into_bytes();
        Some((format!("{until}.{}", URL_SAFE_NO_PAD.encode(proof)), LOGGED_IN))
    }
}

impl Token {
    fn knows(&self, cookie: &str, now: u64) -> bool {
        let Some((until, proof)) = cookie.split_once('.') else { return false };
        let Ok(proof) = URL_SAFE_NO_PAD.decode(proof) else { return false };
        let is_ours = mac(&self.key, until.as_bytes()).verify_slice(&proof).is_ok();
        is_ours && until.parse::<u64>().is_ok_and(|until| now / 1000 < until)
    }
}

/// The values of all cookies of a name.
fn cookies<'a>(headers: &'a HeaderMap, wanted: &'a str) -> impl Iterator<Item = &'a str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(move |(name, _)| *name == wanted)
        .map(|(_, value)| value)
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

/// Who shares a limit: one IPv4 address, one /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let mut bytes = v6.octets();
            bytes[8..].fill(0);
            bytes.into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_772_704_800_000;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn what_opens_and_what_does_not() {
        let auth = Auth::new(Some("s3cret"));
        let (good, length) = auth.cookie(NOW).unwrap();
        let name = auth.cookie_name();
        let another = Auth::new(Some("other"));
        let forged = format!("{name}={}", another.cookie(NOW).unwrap().0);
        let other = format!("{}={}", another.cookie_name(), another.cookie(NOW).unwrap().0);
        let beside = format!("{other}; {name}={good}");
        let good = format!("{name}={good}");
        let (until, proof) = good.split_once('.').unwrap();
        let later = format!("{name}={}.{proof}", NOW / 1000 + 2 * length);
        let token = format!("{name}=s3cret");
        let with = format!("a=b; {good}; c=d");
        let rows: Vec<(&str, Vec<(&'static str, &str)>, u64, Result<Shown, ()>)> = vec![
            ("nothing", vec![], NOW, Ok(Shown::Nothing)),
            ("the token", vec![("authorization", "Bearer s3cret")], NOW, Ok(Shown::Valid)),
            ("in lower case", vec![("authorization", "bearer  s3cret ")], NOW, Ok(Shown::Valid)),
            ("another token", vec![("authorization", "Bearer s3cre")], NOW, Err(())),
            ("an empty token", vec![("authorization", "Bearer ")], NOW, Err(())),
            ("another scheme", vec![("authorization", "Basic s3cret")], NOW, Ok(Shown::Nothing)),
            ("the cookie", vec![("cookie", &good)], NOW, Ok(Shown::Valid)),
            ("among others", vec![("cookie", &with)], NOW, Ok(Shown::Valid)),
            ("its last ms", vec![("cookie", &good)], NOW + length * 1000 - 1, Ok(Shown::Valid)),
            ("when it is over", vec![("cookie", &good)], NOW + length * 1000, Ok(Shown::Stale)),
            ("made longer", vec![("cookie", &later)], NOW, Ok(Shown::Stale)),
            ("without proof", vec![("cookie", until)], NOW, Ok(Shown::Stale)),
            ("of another token", vec![("cookie", &forged)], NOW, Ok(Shown::Stale)),
            ("of another page", vec![("cookie", &other)], NOW, Ok(Shown::Nothing)),
            ("beside another page's", vec![("cookie", &beside)], NOW, Ok(Shown::Valid)),
            ("the token as cookie", vec![("cookie", &token)], NOW, Ok(Shown::Stale)),
        ];
        for (name, pairs, now, want) in rows {
            let found = auth.look(&headers(&pairs), IpAddr::from([10, 0, 0, 1]), now);
            assert_eq!(found.map_err(drop), want, "{name}");
        }
        assert_eq!(Auth::new(None).look(&HeaderMap::new(), IpAddr::from([1; 4]), NOW), Ok(Shown::Valid));
    }

    #[test]
    fn guessing_ends() {
        let auth = Auth::new(Some("s3cret"));
        let at = |last: u8| IpAddr::from([10, 0, 0, last]);
        for _ in 0..MOST_WRONG {
            assert_eq!(auth.try_token(b"x", at(1)), Err(ApiError::wrong_token()));
        }
        assert_eq!(auth.try_token(b"x", at(1)), Err(ApiError::rate_limited(60)));
        assert_eq!(auth.try_token(b"s3cret", at(1)), Err(ApiError::rate_limited(60)), "nor the right one");
        assert_eq!(auth.try_token(b"s3cret", at(2)), Ok(()), "others are heard");
        let cookie = format!("{}={}", auth.cookie_name(), auth.cookie(NOW).unwrap().0);
        assert_eq!(auth.look(&headers(&[("cookie", &cookie)]), at(1), NOW), Ok(Shown::Valid), "and who is logged in");
        let six = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(network(six("2001:db8::1:2:3:4")), six("2001:db8::"));
        assert_eq!(network(six("::ffff:10.0.0.1")), at(1));
    }

    #[test]
    fn a_token_too_long_to_guess_is_heard_while_others_guess() {
        let from = IpAddr::from([10, 0, 0, 1]);
        for (length, want) in [(LONG - 1, Err(ApiError::rate_limited(60))), (LONG, Ok(()))] {
            let token = "t".repeat(length);
            let auth = Auth::new(Some(&token));
            for _ in 0..MOST_WRONG {
                assert_eq!(auth.try_token(b"x", from), Err(ApiError::wrong_token()));
            }
            assert_eq!(auth.try_token(token.as_bytes(), from), want, "{length} bytes");
            assert_eq!(auth.try_token(b"x", from), Err(ApiError::rate_limited(60)), "a wrong one, {length} bytes");
        }
    }

    #[test]
    fn the_table_stays_bounded() {
        let auth = Auth::new(Some("s3cret"));
        for n in 0..2 * ADDRESSES as u32 {
            let _ = auth.try_token(b"x", IpAddr::from(n.to_be_bytes()));
        }
        assert!(auth.wrong.lock().len() <= ADDRESSES + 1);
    }

    #[test]
    fn guessing_ends_where_the_table_is_full() {
        let auth = Auth::new(Some("s3cret"));
        let at = |n: u32| IpAddr::from((0x0a00_0000 + n).to_be_bytes());
        for n in 0..ADDRESSES as u32 {
            assert_eq!(auth.try_token(b"x", at(n)), Err(ApiError::wrong_token()));
        }
        // A new address a guess.
        let answered =
            (0..1000).filter(|n| auth.try_token(b"x", at(ADDRESSES as u32 + n)) == Err(ApiError::wrong_token()));
        assert_eq!(answered.count(), MOST_WRONG as usize);
        let new = at(1 << 20);
        assert_eq!(auth.try_token(b"s3cret", new), Err(ApiError::rate_limited(60)), "nor the right one");
        assert_eq!(auth.try_token(b"s3cret", at(1)), Ok(()), "one that is in the table is heard");
        let cookie = format!("{}={}", auth.cookie_name(), auth.cookie(NOW).unwrap().0);
        assert_eq!(auth.look(&headers(&[("cookie", &cookie)]), new, NOW), Ok(Shown::Valid), "and who is logged in");
        // Once those before it are over, it has a place of its own.
        auth.wrong.lock().values_mut().for_each(|wrong| wrong.since -= WITHIN);
        assert_eq!(auth.try_token(b"s3cret", new), Ok(()));
        assert_eq!(auth.try_token(b"x", new), Err(ApiError::wrong_token()));
        assert_eq!(auth.wrong.lock().keys().collect::<Vec<_>>(), [&new]);
    }
}
