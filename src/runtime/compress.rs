//! Owns how one body is compressed: which coding at which level for which size.
//! Never runs at request time; every copy is made once, when a version is packed.

use std::io::{self, Read, Write};

use crate::runtime::site::Encoding;

/// A copy must save at least this share, or storing and negotiating it is not worth it.
const MIN_SAVING_PERCENT: usize = 5;
/// Below this no coding saves more than its own frame and the extra headers cost.
const MIN_BYTES: usize = 128;

/// The copies worth keeping, in the order of the pack. The same input always gives the same bytes.
pub fn copies(body: &[u8]) -> io::Result<Vec<(Encoding, Vec<u8>)>> {
    if body.len() < MIN_BYTES {
        return Ok(Vec::new());
    }
    let limit = body.len() - body.len() * MIN_SAVING_PERCENT / 100;
    let mut kept = Vec::with_capacity(3);
    for encoding in [Encoding::Brotli, Encoding::Zstd, Encoding::Gzip] {
        let copy = compress(body, encoding)?;
        if copy.len() <= limit {
            kept.push((encoding, copy));
        }
    }
    Ok(kept)
}

/// Levels by size, so that a typical build packs in well under a second. Measured on jQuery (290 kB): brotli 5, 8, 9
/// and 11 give 80.8, 78.0, 77.6 and about 70 kB in 33, 57, 93 and over 1000 ms; on 4 kB they differ by 0.3 %.
/// Everything waits for this before a site goes live, so the slowest level is not worth its tenth.
fn compress(body: &[u8], encoding: Encoding) -> io::Result<Vec<u8>> {
    match encoding {
        Encoding::Identity => Ok(body.to_vec()),
        Encoding::Brotli => brotli(body),
        Encoding::Zstd => zstd::bulk::compress(body, 9),
        Encoding::Gzip => {
            let mut encoder = flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::new(6));
            encoder.write_all(body)?;
            encoder.finish()
        }
    }
}

fn brotli(body: &[u8]) -> io::Result<Vec<u8>> {
    let quality = match body.len() {
        0..=65_536 => 5,
        65_537..=2_097_152 => 8,
        _ => 6,
    };
    let params = brotli::enc::BrotliEncoderParams { quality, size_hint: body.len(), ..Default::default() };
    let mut out = Vec::new();
    brotli::BrotliCompress(&mut &body[..], &mut out, &params)?;
    Ok(out)
}

/// The original bytes of a copy; used to check packs, never for a request.
pub fn decompress(copy: &[u8], encoding: Encoding, size_bytes: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(size_bytes);
    // One byte more than promised is enough to notice a copy that lies about its size.
    let limit = size_bytes as u64 + 1;
    match encoding {
        Encoding::Identity => out.extend_from_slice(copy),
        Encoding::Brotli => {
            brotli::Decompressor::new(copy, 4096).take(limit).read_to_end(&mut out)?;
        }
        Encoding::Zstd => {
            zstd::stream::read::Decoder::new(copy)?.take(limit).read_to_end(&mut out)?;
        }
        Encoding::Gzip => {
            flate2::read::GzDecoder::new(copy).take(limit).read_to_end(&mut out)?;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_gets_three_smaller_copies_and_noise_none() {
        let text = "the quick brown fox jumps over the lazy dog. ".repeat(40);
        let encodings: Vec<_> = copies(text.as_bytes()).unwrap().into_iter().map(|(e, _)| e).collect();
        assert_eq!(encodings, [Encoding::Brotli, Encoding::Zstd, Encoding::Gzip]);
        let mut noise = vec![0; 4096];
        getrandom::fill(&mut noise).unwrap();
        assert_eq!(copies(&noise).unwrap(), []);
        assert_eq!(copies(b"short").unwrap(), []);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_copy_gives_the_body_back_and_is_made_the_same_twice(body in "[a-e\n]{0,3000}") {
            let first = copies(body.as_bytes()).unwrap();
            prop_assert_eq!(&first, &copies(body.as_bytes()).unwrap());
            for (encoding, copy) in first {
                prop_assert_eq!(decompress(&copy, encoding, body.len()).unwrap(), body.as_bytes());
            }
        }
    }
}
