//! Comparing texts whose lengths cannot be guessed: at once, as far as most of them go.

/// So many bytes are compared at once.
const WIDE: usize = 64;

/// Behind so many bytes that count, as many that do not.
static COUNTS: [u8; 2 * WIDE] = {
    let mut counts = [0; 2 * WIDE];
    let mut at = 0;
    while at < WIDE {
        counts[at] = 0xff;
        at += 1;
    }
    counts
};

/// Whether two texts begin with the same bytes, so many as both have. Where more stands behind them there is no branch on how
/// many: lengths of paths cannot be guessed.
#[inline]
pub(crate) fn begin_alike(a: &[u8], b: &[u8], len: usize) -> bool {
    let (Some(first), Some(second)) = (a.first_chunk::<WIDE>(), b.first_chunk()) else { return a[..len] == b[..len] };
    let Some(counts) = COUNTS[WIDE - len.min(WIDE)..].first_chunk() else { return false };
    let mut differs = 0;
    for at in 0..WIDE / 8 {
        differs |= (word(first, at) ^ word(second, at)) & word(counts, at);
    }
    differs == 0 && (len <= WIDE || a[WIDE..len] == b[WIDE..len])
}

/// One of the words of so many bytes.
#[inline(always)]
fn word(bytes: &[u8; WIDE], at: usize) -> u64 {
    u64::from_le_bytes(bytes.as_chunks().0[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_counts_is_compared() {
        let all: Vec<u8> = (0..300u32).map(|at| (at * 7) as u8).collect();
        for len in [0, 1, 7, 8, 63, 64, 65, 128, 200] {
            for (name, behind) in [("nothing behind", 0), ("little behind", 5), ("enough behind", WIDE)] {
                let (text, mut other) = (&all[..len + behind], all[..len + behind].to_vec());
                other[len..].fill(0xee);
                assert!(begin_alike(text, &other, len), "{len}, {name}");
                for at in 0..len {
                    other[at] ^= 1;
                    assert!(!begin_alike(text, &other, len), "{len}, {name}, byte {at}");
                    other[at] ^= 1;
                }
            }
        }
    }
}
