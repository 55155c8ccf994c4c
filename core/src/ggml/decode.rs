//! From blocks to floats. Each step is the one of ggml's reference (and of Python's `gguf.dequantize`, with which
//! `tests/python/test_gguf.py` compares every type bit for bit): all in F32, each product and each sum rounded by itself.

use super::BlockType;

/// What the codes of IQ4_NL and IQ4_XS stand for.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// What the codes of MXFP4 and NVFP4 stand for, doubled.
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Decodes whole blocks. The lengths fit: `floats` has one element for each that `blocks` hold.
///
/// # Panics
/// When the type [is not decoded](BlockType::is_decoded).
pub fn decode(kind: BlockType, blocks: &[u8], floats: &mut [f32]) {
    match kind {
        BlockType::F32 => each::<4, 1>(blocks, floats, |block, out| out[0] = f32::from_le_bytes(*block)),
        BlockType::F16 => each::<2, 1>(blocks, floats, |block, out| out[0] = half(block, 0)),
        BlockType::BF16 => each::<2, 1>(blocks, floats, |block, out| {
            out[0] = f32::from_bits(u32::from(u16::from_le_bytes(*block)) << 16);
        }),
        BlockType::Q4_0 => each(blocks, floats, q4_0),
        BlockType::Q4_1 => each(blocks, floats, q4_1),
        BlockType::Q5_0 => each(blocks, floats, q5_0),
        BlockType::Q5_1 => each(blocks, floats, q5_1),
        BlockType::Q8_0 => each(blocks, floats, q8_0),
        BlockType::Q8_1 => each(blocks, floats, q8_1),
        BlockType::Q2_K => each(blocks, floats, q2_k),
        BlockType::Q3_K => each(blocks, floats, q3_k),
        BlockType::Q4_K => each(blocks, floats, q4_k),
        BlockType::Q5_K => each(blocks, floats, q5_k),
        BlockType::Q6_K => each(blocks, floats, q6_k),
        BlockType::Q8_K => each(blocks, floats, q8_k),
        BlockType::IQ4_NL => each(blocks, floats, iq4_nl),
        BlockType::IQ4_XS => each(blocks, floats, iq4_xs),
        BlockType::TQ1_0 => each(blocks, floats, tq1_0),
        BlockType::TQ2_0 => each(blocks, floats, tq2_0),
        BlockType::MXFP4 => each(blocks, floats, mxfp4),
        BlockType::NVFP4 => each(blocks, floats, nvfp4),
        other => panic!("{other} is refused when the plan is made"),
    }
}

/// Decodes one block after the other.
fn each<const BYTES: usize, const ELEMENTS: usize>(
    blocks: &[u8],
    floats: &mut [f32],
    one: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) {
    for (block, out) in blocks.as_chunks().0.iter().zip(floats.as_chunks_mut().0) {
        one(block, out);
    }
}

/// The half float at byte `at`.
fn half(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// A code as a float.
fn float(code: u8) -> f32 {
    f32::from(code)
}

fn signed(byte: u8) -> f32 {
    f32::from(byte.cast_signed())
}

/// The two halves of 32 codes of four bits: low ones come first.
fn nibbles(codes: &[u8], out: &mut [f32; 32], value: impl Fn(u8, usize) -> f32) {
    for (at, &byte) in codes.iter().enumerate().take(16) {
        out[at] = value(byte & 15, at);
        out[at + 16] = value(byte >> 4, at + 16);
    }
}

fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    nibbles(&block[2..], out, |code, _| d * (float(code) - 8.0));
}

fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    nibbles(&block[4..], out, |code, _| d * float(code) + m);
}

/// The fifth bits of 32 codes.
fn fifth(block: &[u8], at: usize) -> impl Fn(usize) -> u8 {
    let bits = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    move |element| u8::from(bits >> element & 1 == 1) << 4
}

fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let (d, high) = (half(block, 0), fifth(block, 2));
    nibbles(&block[6..], out, |code, at| d * (float(code | high(at)) - 16.0));
}

fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m, high) = (half(block, 0), half(block, 2), fifth(block, 4));
    nibbles(&block[8..], out, |code, at| d * float(code | high(at)) + m);
}

fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half(block, 0);
    out.iter_mut().zip(&block[2..]).for_each(|(out, &code)| *out = signed(code) * d);
}

/// Scale, the codes' sum times the scale, codes.
fn q8_1(block: &[u8; 36], out: &mut [f32; 32]) {
    let d = half(block, 0);
    out.iter_mut().zip(&block[4..]).for_each(|(out, &code)| *out = signed(code) * d);
}

/// Scale, codes, sums of 16 codes.
fn q8_k(block: &[u8; 292], out: &mut [f32; 256]) {
    let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    out.iter_mut().zip(&block[4..]).for_each(|(out, &code)| *out = signed(code) * d);
}

/// Two bits of each of 256 codes: 128 lie in 32 bytes, the first 32 in their lowest bits.
fn pairs(codes: &[u8], element: usize) -> u8 {
    codes[element / 128 * 32 + element % 32] >> (element % 128 / 32 * 2) & 3
}

fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (d, least) = (half(block, 80), half(block, 82));
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = block[group];
        let (scale, bias) = (d * float(scale & 15), least * float(scale >> 4));
        for (at, out) in out.iter_mut().enumerate() {
            *out = scale * float(pairs(&block[16..80], group * 16 + at)) - bias;
        }
    }
}

fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (masks, codes, scales, d) = (&block[..32], &block[32..96], &block[96..108], half(block, 108));
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let low = scales[group % 8] >> (group / 8 * 4) & 15;
        let high = scales[8 + group % 4] >> (group / 4 * 2) & 3;
        let scale = d * (float(low | high << 4) - 32.0);
        for (at, out) in out.iter_mut().enumerate() {
            let element = group * 16 + at;
            // The third bit is inverted: where it is not set, 4 is taken away.
            let taken = if masks[element % 32] >> (element / 32) & 1 == 1 { 0.0 } else { 4.0 };
            *out = scale * (float(pairs(codes, element)) - taken);
        }
    }
}

/// Scale and minimum, of six bits each, of one of eight groups.
fn six_bits(packed: &[u8], group: usize) -> (u8, u8) {
    match group {
        0..4 => (packed[group] & 63, packed[group + 4] & 63),
        _ => {
            let (scale, least, both) = (packed[group - 4], packed[group], packed[group + 4]);
            (both & 15 | scale >> 2 & 0x30, both >> 4 | least >> 2 & 0x30)
        }
    }
}

fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, least) = (half(block, 0), half(block, 2));
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, bias) = six_bits(&block[4..16], group);
        let (scale, bias) = (d * float(scale), least * float(bias));
        let codes = &block[16 + group / 2 * 32..][..32];
        let shift = group % 2 * 4;
        out.iter_mut().zip(codes).for_each(|(out, code)| *out = scale * float(code >> shift & 15) - bias);
    }
}

fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, least, high) = (half(block, 0), half(block, 2), &block[16..48]);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, bias) = six_bits(&block[4..16], group);
        let (scale, bias) = (d * float(scale), least * float(bias));
        let codes = &block[48 + group / 2 * 32..][..32];
        let shift = group % 2 * 4;
        for ((out, code), high) in out.iter_mut().zip(codes).zip(high) {
            *out = scale * float(code >> shift & 15 | (high >> group & 1) << 4) - bias;
        }
    }
}

fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], half(block, 208));
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * signed(scales[group]);
        for (at, out) in out.iter_mut().enumerate() {
            let element = group * 16 + at;
            let code = low[element / 128 * 64 + element % 64] >> (element % 128 / 64 * 4) & 15;
            *out = scale * (float(code | pairs(high, element) << 4) - 32.0);
        }
    }
}

fn iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(block, 0);
    nibbles(&block[2..], out, |code, _| d * f32::from(IQ4[usize::from(code)]));
}

fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let (d, high) = (half(block, 0), u16::from_le_bytes([block[2], block[3]]));
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low = block[4 + group / 2] >> (group % 2 * 4) & 15;
        let scale = u16::from(low) | (high >> (2 * group) & 3) << 4;
        let scale = d * (f32::from(scale) - 32.0);
        nibbles(&block[8 + group * 16..], out, |code, _| scale * f32::from(IQ4[usize::from(code)]));
    }
}

/// Five digits of base 3 in a byte, as a fraction of 256: multiplying shifts the next digit to the top.
fn tq1_0(block: &[u8; 54], out: &mut [f32; 256]) {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let d = half(block, 52);
    let digit = |byte: u8, power: u8| {
        let digit = (u16::from(byte.wrapping_mul(power)) * 3) >> 8;
        d * (f32::from(digit) - 1.0)
    };
    let parts: [(&[u8], usize); 3] = [(&block[..32], 5), (&block[32..48], 5), (&block[48..52], 4)];
    let values = parts.into_iter().flat_map(|(bytes, digits)| {
        POWERS[..digits].iter().flat_map(move |&power| bytes.iter().map(move |&byte| (byte, power)))
    });
    out.iter_mut().zip(values).for_each(|(out, (byte, power))| *out = digit(byte, power));
}

fn tq2_0(block: &[u8; 66], out: &mut [f32; 256]) {
    let d = half(block, 64);
    for (element, out) in out.iter_mut().enumerate() {
        *out = d * (float(pairs(&block[..64], element)) - 1.0);
    }
}

fn mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    // Half of 2^(e - 127), since the codes are doubled. The two least are subnormal.
    let scale = match u32::from(block[0]) {
        exponent @ 0..2 => f32::from_bits(0x0020_0000 << exponent),
        exponent => f32::from_bits((exponent - 1) << 23),
    };
    nibbles(&block[1..], out, |code, _| scale * f32::from(E2M1[usize::from(code)]));
}

fn nvfp4(block: &[u8; 36], out: &mut [f32; 64]) {
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = e4m3_halved(block[group]);
        for (at, &byte) in block[4 + group * 8..][..8].iter().enumerate() {
            out[at] = scale * f32::from(E2M1[usize::from(byte & 15)]);
            out[at + 8] = scale * f32::from(E2M1[usize::from(byte >> 4)]);
        }
    }
}

/// Half of an unsigned E4M3 float, since the codes are doubled. What would be its NaN counts as 0, as in ggml.
fn e4m3_halved(byte: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(byte >> 3 & 15), float(byte & 7));
    match (byte, exponent) {
        (0 | 0x7f, _) => 0.0,
        (_, 0) => mantissa / 512.0 * 0.5,
        // 2^(exponent - 8) by its bits.
        _ => (1.0 + mantissa / 8.0) * f32::from_bits((exponent + 119) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The blocks of every type are read to their last byte, and no element is left out.
    #[test]
    fn every_type_fills_its_elements_from_its_bytes() {
        for kind in BlockType::all().filter(|kind| kind.is_decoded()) {
            let (bytes, elements) = (usize::try_from(kind.bytes()).unwrap(), usize::try_from(kind.elements()).unwrap());
            let blocks: Vec<u8> = (0..3 * bytes).map(|at| (at * 37 % 61) as u8).collect();
            let mut floats = vec![f32::NAN; 3 * elements];
            decode(kind, &blocks, &mut floats);
            assert!(floats.iter().all(|float| !float.is_nan()), "{kind}");
        }
    }

    #[test]
    fn a_block_has_the_values_of_its_formula() {
        let mut block = vec![0x00, 0x40];
        block.extend([0x08; 16]);
        let mut floats = [0.0; 32];
        decode(BlockType::Q4_0, &block, &mut floats);
        assert_eq!((floats[0], floats[31]), (0.0, -16.0), "2 * (8 - 8) and 2 * (0 - 8)");
        decode(BlockType::IQ4_NL, &block, &mut floats);
        assert_eq!((floats[0], floats[31]), (2.0, -254.0));
    }
}
