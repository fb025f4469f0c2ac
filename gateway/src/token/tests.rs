use super::*;

const NOW: u64 = 1_800_000_000;

fn key() -> TokenKey {
    TokenKey::from_bytes(&[7; KEY_BYTES])
}

fn claims() -> Claims {
    Claims { user: UserId(42), device: Some("phone".into()), issued_at: NOW - 10, expires_at: NOW + 3_600 }
}

fn encode(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// A token with this header and these claims, signed rightly.
fn signed(header: &str, claims: &str) -> String {
    let mut token = format!("{}.{}", encode(header), encode(claims));
    let mac = key().mac.chain_update(token.as_bytes()).finalize();
    token.push('.');
    token.push_str(&URL_SAFE_NO_PAD.encode(mac.as_bytes()));
    token
}

const PLAIN: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

#[test]
fn what_was_minted_is_believed() {
    let token = key().mint(&claims());
    assert_eq!(key().verify(&token, NOW), Ok(claims()));
    let anonymous = Claims { device: None, ..claims() };
    assert_eq!(key().verify(&key().mint(&anonymous), NOW), Ok(anonymous));
    let largest = Claims { user: UserId(u64::MAX), device: Some("x".repeat(64).into()), ..claims() };
    assert_eq!(key().verify(&key().mint(&largest), NOW), Ok(largest));
}

/// The example of RFC 7515 appendix A.1: another implementation's signature over bytes that are not ours.
#[test]
fn the_rfcs_own_signature_matches() {
    let key_text = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let bytes = URL_SAFE_NO_PAD.decode(key_text).expect("the RFC's key is base64url");
    let key = TokenKey { mac: Hmac::new_from_slice(&bytes).expect("HMAC takes keys of any length") };
    let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    // Signed rightly, but it names no user of ours: so the signature was reached and passed.
    let error = key.verify(token, 0).expect_err("it has no sub");
    assert_eq!(error.code(), "token_malformed");
    let forged = token.replace("dBjf", "dBjg");
    assert_eq!(key.verify(&forged, 0), Err(TokenError::BadSignature));
}

#[test]
fn headers_of_other_libraries_are_understood_and_other_algorithms_are_not() {
    let body = format!(r#"{{"sub":"42","dev":"phone","iat":{},"exp":{},"aud":"x"}}"#, NOW - 10, NOW + 3_600);
    for header in [
        PLAIN,
        r#"{"typ":"JWT","alg":"HS256"}"#,
        r#"{"alg":"HS256"}"#,
        r#"{ "alg" : "HS256", "kid":"1", "typ":"jwt" }"#,
    ] {
        assert_eq!(key().verify(&signed(header, &body), NOW), Ok(claims()), "{header}");
    }
    for header in [
        r#"{"alg":"none"}"#,
        r#"{"alg":"None","typ":"JWT"}"#,
        r#"{"alg":"HS512","typ":"JWT"}"#,
        r#"{"alg":"RS256","typ":"JWT"}"#,
        r#"{"alg":"hs256"}"#,
        r#"{"alg":"HS256","crit":["exp"]}"#,
        r#"{"alg":"HS256","typ":"JWE"}"#,
    ] {
        assert_eq!(key().verify(&signed(header, &body), NOW), Err(TokenError::Algorithm), "{header}");
    }
    let unsigned = format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(&body));
    assert_eq!(key().verify(&unsigned, NOW), Err(TokenError::Algorithm));
    for header in ["", "[]", "{}", r#"{"alg":1}"#, r#"{"alg":"HS256","alg":"none"}"#, "\u{1}"] {
        let error = key().verify(&signed(header, &body), NOW).expect_err("not a header");
        assert!(matches!(error, TokenError::Malformed(_)), "{header}: {error:?}");
    }
}

#[test]
fn a_forged_token_is_refused() {
    let token = key().mint(&claims());
    let other = TokenKey::from_bytes(&[8; KEY_BYTES]);
    assert_eq!(other.verify(&token, NOW), Err(TokenError::BadSignature));
    let (head, mac) = token.rsplit_once('.').expect("a token has three parts");
    let stolen = key().mint(&Claims { user: UserId(43), ..claims() });
    let (other_head, _) = stolen.rsplit_once('.').expect("a token has three parts");
    assert_eq!(key().verify(&format!("{other_head}.{mac}"), NOW), Err(TokenError::BadSignature));
    let zeros = URL_SAFE_NO_PAD.encode([0u8; 32]);
    assert_eq!(key().verify(&format!("{head}.{zeros}"), NOW), Err(TokenError::BadSignature));
}

#[test]
fn every_truncation_and_every_flipped_bit_is_refused() {
    let token = key().mint(&claims());
    for length in 0..token.len() {
        assert!(key().verify(&token[..length], NOW).is_err(), "{length} bytes");
    }
    for index in 0..token.len() {
        for bit in 0..7 {
            let mut bytes = token.clone().into_bytes();
            bytes[index] ^= 1 << bit;
            let changed = String::from_utf8(bytes).expect("seven-bit changes stay ASCII");
            assert!(key().verify(&changed, NOW).is_err(), "byte {index}, bit {bit}");
        }
    }
}

#[test]
fn what_is_no_token_is_malformed() {
    let token = key().mint(&claims());
    for text in [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "ü.ü.ü",
        " ",
        &format!("{token}."),
        &format!("{token}="),
        &format!(" {token}"),
        &"x".repeat(1_025),
    ] {
        let error = key().verify(text, NOW).expect_err(text);
        assert!(matches!(error, TokenError::Malformed(_)), "{text}: {error:?}");
    }
}

#[test]
fn claims_are_what_they_must_be() {
    let times = format!(r#""iat":{NOW},"exp":{}"#, NOW + 1);
    for body in [
        String::new(),
        "{}".to_owned(),
        "[]".to_owned(),
        format!("{{{times}}}"),
        format!(r#"{{"sub":42,{times}}}"#),
        format!(r#"{{"sub":"0",{times}}}"#),
        format!(r#"{{"sub":"042",{times}}}"#),
        format!(r#"{{"sub":"+42",{times}}}"#),
        format!(r#"{{"sub":"-42",{times}}}"#),
        format!(r#"{{"sub":"18446744073709551616",{times}}}"#),
        format!(r#"{{"sub":"42","sub":"43",{times}}}"#),
        format!(r#"{{"sub":"42","dev":"",{times}}}"#),
        format!(r#"{{"sub":"42","dev":"a b",{times}}}"#),
        format!(r#"{{"sub":"42","dev":"{}",{times}}}"#, "x".repeat(65)),
        format!(r#"{{"sub":"42","iat":{NOW}}}"#),
        format!(r#"{{"sub":"42","exp":{NOW}}}"#),
        format!(r#"{{"sub":"42","iat":-1,"exp":{}}}"#, NOW + 1),
        format!(r#"{{"sub":"42","iat":1.5,"exp":{}}}"#, NOW + 1),
    ] {
        let error = key().verify(&signed(PLAIN, &body), NOW).expect_err(&body);
        assert!(matches!(error, TokenError::Malformed(_)), "{body}: {error:?}");
    }
}

#[test]
fn a_token_is_valid_from_its_begin_to_its_end() {
    let token = key().mint(&Claims { issued_at: NOW, expires_at: NOW + 100, ..claims() });
    assert!(key().verify(&token, NOW).is_ok());
    assert!(key().verify(&token, NOW + 99).is_ok());
    assert_eq!(key().verify(&token, NOW + 100), Err(TokenError::Expired { at: NOW + 100 }));
    // Another machine's clock may be a minute ahead.
    assert!(key().verify(&token, NOW - 60).is_ok());
    assert_eq!(key().verify(&token, NOW - 61), Err(TokenError::NotYetValid { from: NOW }));
    let later = format!(r#"{{"sub":"42","iat":{NOW},"nbf":{},"exp":{}}}"#, NOW + 500, NOW + 900);
    assert_eq!(key().verify(&signed(PLAIN, &later), NOW), Err(TokenError::NotYetValid { from: NOW + 500 }));
    let reversed = key().mint(&Claims { issued_at: NOW, expires_at: 5, ..claims() });
    assert_eq!(key().verify(&reversed, NOW), Err(TokenError::Expired { at: 5 }));
}
