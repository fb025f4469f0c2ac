//! Masking, RFC 6455 §5.3: byte i of the payload is XORed with byte i mod 4 of the key.
//!
//! Written as XOR of 16-byte words, which compilers turn into vector code on every target; no `unsafe` is needed to
//! reach memory speed.

/// Masks or unmasks `payload` in place; `key` belongs to its first byte.
///
/// Applying the same key twice gives the payload back.
#[inline]
pub fn apply_mask(payload: &mut [u8], key: [u8; 4]) {
    // The key repeated over a word, in the byte order of memory.
    let short = u32::from_ne_bytes(key);
    let long = u64::from(short) | u64::from(short) << 32;
    let longest = u128::from(long) | u128::from(long) << 64;

    let (words, rest) = payload.as_chunks_mut::<16>();
    for word in words {
        *word = (u128::from_ne_bytes(*word) ^ longest).to_ne_bytes();
    }
    // What is left begins at a multiple of 4: the key is in phase.
    let (words, rest) = rest.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ short).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key) {
        *byte ^= key;
    }
}

/// Appends `payload`, masked, without a second pass over it.
pub(crate) fn extend_masked(out: &mut Vec<u8>, payload: &[u8], key: [u8; 4]) {
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], key);
}

/// The key for a payload of which `bytes` bytes have been dealt with.
#[inline]
#[must_use]
pub(crate) fn rotate_key(key: [u8; 4], bytes: usize) -> [u8; 4] {
    let mut rotated = key;
    rotated.rotate_left(bytes % 4);
    rotated
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_definition(payload: &[u8], key: [u8; 4]) -> Vec<u8> {
        payload.iter().enumerate().map(|(index, byte)| byte ^ key[index % 4]).collect()
    }

    #[test]
    fn masks_as_the_rfc_says_at_every_length() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        let payload: Vec<u8> = (0..200u8).collect();
        for length in 0..payload.len() {
            let mut masked = payload[..length].to_vec();
            apply_mask(&mut masked, key);
            assert_eq!(masked, by_definition(&payload[..length], key), "length {length}");
            let mut copied = vec![9];
            extend_masked(&mut copied, &payload[..length], key);
            assert_eq!(copied[1..], masked[..]);
            apply_mask(&mut masked, key);
            assert_eq!(masked, payload[..length]);
        }
    }

    #[test]
    fn unmasks_in_two_parts_wherever_the_cut_is() {
        let key = [1, 2, 3, 4];
        let payload: Vec<u8> = (0..70u8).collect();
        for cut in 0..payload.len() {
            let mut masked = by_definition(&payload, key);
            let (front, back) = masked.split_at_mut(cut);
            apply_mask(front, key);
            apply_mask(back, rotate_key(key, cut));
            assert_eq!(masked, payload, "cut {cut}");
        }
    }
}
