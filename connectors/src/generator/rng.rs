//! The generator's own random numbers: xoshiro256++ seeded by SplitMix64, the same on every machine and in every release.
//!
//! Each stream of lines (base traffic, each attack, each message class) draws from a generator of its own, so that
//! adding an attack changes no line of the base traffic.

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Rng([u64; 4]);

/// SplitMix64's output function: a bijection that scatters its input.
#[inline]
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The numbers of one stream under a seed.
    pub fn new(seed: u64, stream: u64) -> Rng {
        let mut state = mix(seed ^ 0x9e37_79b9_7f4a_7c15) ^ mix(stream.wrapping_add(0x632b_e59b_d9b4_e019));
        Rng([(); 4].map(|()| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(state)
        }))
    }

    /// 64 random bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `n`; zero for an `n` of zero.
    #[inline]
    pub fn below(&mut self, n: u32) -> u32 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u32
    }

    /// The same for large ranges.
    #[inline]
    pub fn below_u64(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// True in `parts` of a million cases.
    #[inline]
    pub fn chance(&mut self, parts: u32) -> bool {
        self.below(1_000_000) < parts
    }

    /// One of a list that is not empty.
    #[inline]
    pub fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len() as u32) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_pinned_and_streams_differ() {
        let mut a = Rng::new(1, 0);
        let first = [a.bits(), a.bits()];
        assert_eq!(first, [Rng::new(1, 0).bits(), first[1]]);
        assert_ne!(first[0], Rng::new(1, 1).bits());
        assert_ne!(first[0], Rng::new(2, 0).bits());
        // Reference: xoshiro256++ from state 1, 2, 3, 4 begins 41943041, 58720359 (Blackman and Vigna).
        let mut reference = Rng([1, 2, 3, 4]);
        assert_eq!([reference.bits(), reference.bits()], [41_943_041, 58_720_359]);
    }

    #[test]
    fn ranges_hold() {
        let mut rng = Rng::new(7, 7);
        for n in [1, 2, 3, 1000, u32::MAX] {
            assert!((0..1000).all(|_| rng.below(n) < n), "{n}");
        }
        assert_eq!(rng.below(0), 0);
        let hits = (0..100_000).filter(|_| rng.chance(400_000)).count();
        assert!((39_000..41_000).contains(&hits), "{hits}");
    }
}
