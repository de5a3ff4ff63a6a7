//! SCRAM-SHA-256 without channel binding, which is what the driver speaks.
//!
//! Of our own, because the driver prepares a password by the PRECIS profile `OpaqueString` (and
//! takes it as it is where that fails), while every library prepares it by SASLprep: passwords that
//! the two prepare differently are refused to the driver and would be let in here.

use crate::error::Error;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::pbkdf2::{PBKDF2_HMAC_SHA256, derive};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use precis_profiles::OpaqueString;
use precis_profiles::precis_core::profile::PrecisFastInvocation as _;
use secrecy::{ExposeSecret as _, SecretSlice};
use std::num::NonZeroU32;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The mechanism's name.
pub const MECHANISM: &str = "SCRAM-SHA-256";

/// Rounds of the key derivation that are made: PostgreSQL's default is 4096, and a million takes
/// about half a second.
const MAX_ROUNDS: u32 = 1_000_000;

/// Up to here an exchange takes some milliseconds.
const USUAL_ROUNDS: u32 = 10_000;

/// Usual exchanges at a time in this process: a server asks for one at each login, and however many
/// logins go on, they leave processor time to others.
static USUAL: Semaphore = Semaphore::const_new(2);

/// Longer ones at a time, apart from the usual: a server that asks for many rounds must not keep
/// others from their turn.
static LONG: Semaphore = Semaphore::const_new(1);

/// Says that there is no channel binding.
const HEADER: &str = "n,,";

/// An exchange.
pub struct Scram {
    password: SecretSlice<u8>,
    nonce: String,
    /// What the server must sign.
    transcript: String,
    server_key: Option<hmac::Key>,
}

/// What the server asks for by its first message.
pub struct Challenge {
    said: String,
    nonce: String,
    salt: Vec<u8>,
    rounds: NonZeroU32,
}

const BAD: Error = Error::Protocol("the server's part of the password exchange cannot be read");

impl Scram {
    /// Begins one.
    pub fn new(password: &str) -> Result<Self, Error> {
        let mut nonce = [0; 18];
        rand::fill(&mut nonce).map_err(|_| Error::Authentication("no random numbers"))?;
        Ok(Self::with_nonce(password, STANDARD_NO_PAD.encode(nonce)))
    }

    fn with_nonce(password: &str, nonce: String) -> Self {
        let prepared = OpaqueString::enforce(password);
        let password = prepared.map_or_else(|_| password.to_owned(), std::borrow::Cow::into_owned);
        Self {
            password: password.into_bytes().into(),
            nonce,
            transcript: String::new(),
            server_key: None,
        }
    }

    /// The client's first message.
    pub fn first(&self) -> String {
        format!("{HEADER}{}", self.bare())
    }

    fn bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// Reads the server's first message.
    pub fn challenge(&self, server_first: &[u8]) -> Result<Challenge, Error> {
        let said = std::str::from_utf8(server_first).map_err(|_| BAD)?;
        let mut parts = said.splitn(3, ',');
        let mut part = |name| {
            parts
                .next()
                .and_then(|part| part.strip_prefix(name))
                .ok_or(BAD)
        };
        let (nonce, salt, rounds) = (part("r=")?, part("s=")?, part("i=")?);
        let salt = STANDARD.decode(salt).map_err(|_| BAD)?;
        let rounds: NonZeroU32 = rounds.parse().map_err(|_| BAD)?;
        if rounds.get() > MAX_ROUNDS {
            return Err(Error::Authentication(
                "the server asks for more than a million rounds of the password exchange",
            ));
        }
        if !nonce.starts_with(&self.nonce) || nonce.len() <= self.nonce.len() {
            return Err(BAD);
        }
        Ok(Challenge {
            said: said.to_owned(),
            nonce: nonce.to_owned(),
            salt,
            rounds,
        })
    }

    /// The client's last message, an answer to the server's first one. It takes as long as the
    /// server wants.
    pub fn last(&mut self, challenge: &Challenge) -> String {
        let Challenge {
            said,
            nonce,
            salt,
            rounds,
        } = challenge;
        let mut salted = [0; SHA256_OUTPUT_LEN];
        let password = self.password.expose_secret();
        derive(PBKDF2_HMAC_SHA256, *rounds, salt, password, &mut salted);
        let salted = hmac::Key::new(hmac::HMAC_SHA256, &salted);
        let client_key = hmac::sign(&salted, b"Client Key");
        let stored_key = digest(&SHA256, client_key.as_ref());
        let last = format!("c={},r={nonce}", STANDARD.encode(HEADER));
        self.transcript = format!("{},{said},{last}", self.bare());
        let stored_key = hmac::Key::new(hmac::HMAC_SHA256, stored_key.as_ref());
        let signature = hmac::sign(&stored_key, self.transcript.as_bytes());
        let proof = client_key.as_ref().iter().zip(signature.as_ref());
        let proof: Vec<u8> = proof.map(|(key, signature)| key ^ signature).collect();
        let server_key = hmac::sign(&salted, b"Server Key");
        self.server_key = Some(hmac::Key::new(hmac::HMAC_SHA256, server_key.as_ref()));
        format!("{last},p={}", STANDARD.encode(proof))
    }

    /// Checks by the server's last message that it knows the password as well.
    pub fn finish(&self, server_last: &[u8]) -> Result<(), Error> {
        let key = self.server_key.as_ref().ok_or(BAD)?;
        let signature = server_last.strip_prefix(b"v=").ok_or(BAD)?;
        let expected = hmac::sign(key, self.transcript.as_bytes());
        let expected = STANDARD.encode(expected);
        verify_slices_are_equal(expected.as_bytes(), signature).map_err(|_| {
            Error::Authentication("the server does not prove that it knows the password")
        })
    }
}

impl Challenge {
    /// Waits until this process may do what is asked for. To be held until it is done.
    pub async fn turn(&self) -> Option<SemaphorePermit<'static>> {
        let turns = if self.rounds.get() > USUAL_ROUNDS {
            &LONG
        } else {
            &USUAL
        };
        // They are never closed.
        turns.acquire().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    /// The example of RFC 7677 with an empty user name, since PostgreSQL takes that from the
    /// start-up message; worked out by other means.
    fn exchange() -> (Scram, String) {
        let scram = Scram::with_nonce("pencil", "rOprNGfwEbeRWgbNEkqO".to_owned());
        let server = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        (scram, server.to_owned())
    }

    #[test]
    fn the_exchange_is_that_of_the_standard() {
        let (mut scram, server) = exchange();
        assert_eq!(scram.first(), "n,,n=,r=rOprNGfwEbeRWgbNEkqO");
        let last = scram.last(&scram.challenge(server.as_bytes()).unwrap());
        assert_eq!(
            last,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=qvT2SWdEH5Q06albL+hjSYuUhCG7VndFyzIb7CK4n9k="
        );
        scram
            .finish(b"v=3HO6Qt1M4MKJrmlKaoOqLAI0/0TV0HZe7J9H3MBtSOg=")
            .unwrap();
        for wrong in [
            &b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ="[..],
            b"e=other-error",
            b"",
        ] {
            assert!(scram.finish(wrong).is_err());
        }
    }

    #[test]
    fn a_server_that_does_not_keep_to_it_is_refused() {
        for wrong in [
            "",
            "r=,s=,i=",
            "r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=?,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=0",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=-1",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4294967296",
            "m=ext,r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        ] {
            let (scram, _) = exchange();
            assert!(
                matches!(scram.challenge(wrong.as_bytes()), Err(Error::Protocol(_))),
                "{wrong}"
            );
        }
        let (scram, _) = exchange();
        let slow = b"r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4000000000";
        let refused = scram.challenge(slow);
        assert!(matches!(refused, Err(Error::Authentication(_))));
        assert!(exchange().0.finish(b"v=").is_err(), "before its turn");
    }

    #[tokio::test]
    async fn many_rounds_are_for_one_at_a_time_and_keep_no_usual_exchange_waiting() {
        let (scram, server) = exchange();
        let asking = |rounds: u32| {
            let server = server.replace("4096", &rounds.to_string());
            scram.challenge(server.as_bytes()).unwrap()
        };
        let [usual, long] = [asking(USUAL_ROUNDS), asking(MAX_ROUNDS)];
        let at_once = Duration::from_millis(20);
        let held = long.turn().await;
        assert!(timeout(at_once, long.turn()).await.is_err());
        let both = [usual.turn().await, usual.turn().await];
        assert!(timeout(at_once, usual.turn()).await.is_err());
        drop((held, both));
        assert!(long.turn().await.is_some() && usual.turn().await.is_some());
    }

    #[test]
    fn a_password_is_prepared_as_the_driver_does() {
        for (given, prepared) in [
            ("plain", "plain"),
            ("e\u{301}", "\u{e9}"),
            ("a\u{3000}b", "a b"),
            // SASLprep makes `VIII` of it.
            ("\u{2167}", "\u{2167}"),
            // Forbidden, so taken as they are.
            ("a\u{ad}b", "a\u{ad}b"),
            ("\u{e000}", "\u{e000}"),
            ("e\u{301}\u{7}", "e\u{301}\u{7}"),
            ("", ""),
        ] {
            let scram = Scram::with_nonce(given, String::new());
            assert_eq!(
                scram.password.expose_secret(),
                prepared.as_bytes(),
                "{given:?}"
            );
        }
    }
}
