//! Distributions without transcendental functions: only `+ - * /`, which every machine rounds alike.
//!
//! Invariant: the same weights give the same table, and the same bits give the same draw, on any machine.

use super::rng::Rng;

/// Draws indices by weight in constant time (Vose's alias method).
#[derive(Clone, Debug)]
pub struct Alias {
    /// Keep the cell if the low draw is below the threshold, else take the alias.
    cells: Vec<(u32, u32)>,
}

impl Alias {
    /// A table of weights, which are finite and not negative, with at least one above zero; at most 2^32 of them.
    pub fn new(weights: &[f64]) -> Alias {
        let total: f64 = weights.iter().sum();
        let mut scaled: Vec<f64> = weights.iter().map(|w| w * weights.len() as f64 / total).collect();
        let mut cells: Vec<(u32, u32)> = (0..weights.len() as u32).map(|i| (u32::MAX, i)).collect();
        let (mut small, mut large): (Vec<u32>, Vec<u32>) =
            (0..weights.len() as u32).partition(|i| scaled[*i as usize] < 1.0);
        while let (Some(low), Some(high)) = (small.pop(), large.last().copied()) {
            let share = scaled[low as usize];
            cells[low as usize] = ((share * 4_294_967_296.0) as u32, high);
            scaled[high as usize] = (scaled[high as usize] + share) - 1.0;
            if scaled[high as usize] < 1.0 {
                large.pop();
                small.push(high);
            }
        }
        Alias { cells }
    }

    /// An index by weight.
    #[inline]
    pub fn draw(&self, rng: &mut Rng) -> usize {
        let bits = rng.bits();
        let cell = (((bits >> 32) * self.cells.len() as u64) >> 32) as usize;
        let (threshold, alias) = self.cells[cell];
        if (bits as u32) < threshold { cell } else { alias as usize }
    }
}

/// How requests spread over clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// The client's number is binomial with p = ½: a few hundred regulars in the middle, almost nobody at the ends.
    Binomial,
    /// The k-th client's share is proportional to 1/k.
    Zipf,
    /// Every client alike.
    Uniform,
}

/// Draws client numbers.
#[derive(Clone, Debug)]
pub enum Clients {
    /// Every number below this alike.
    Uniform(u32),
    /// By weight, counted from the first number.
    Weighted(u32, Alias),
}

impl Clients {
    /// `n` clients (at least one) spread as said.
    pub fn new(n: u32, spread: Spread) -> Clients {
        match spread {
            Spread::Uniform => Clients::Uniform(n),
            Spread::Zipf => Clients::Weighted(0, Alias::new(&(1..=n).map(|k| 1.0 / f64::from(k)).collect::<Vec<_>>())),
            Spread::Binomial => {
                // Outward from the middle by the ratio of neighbours; what is below 1e-12 of the middle never occurs.
                let (last, middle) = (f64::from(n - 1), (n - 1) / 2);
                let below = |k: u32| f64::from(k) / (last - f64::from(k) + 1.0);
                let above = |k: u32| (last - f64::from(k)) / (f64::from(k) + 1.0);
                let (mut left, mut right) = (vec![1.0], Vec::new());
                let (mut k, mut weight) = (middle, 1.0);
                while k > 0 && weight > 1e-12 {
                    weight *= below(k);
                    left.push(weight);
                    k -= 1;
                }
                let (mut up, mut weight) = (middle, 1.0);
                while up + 1 < n && weight > 1e-12 {
                    weight *= above(up);
                    right.push(weight);
                    up += 1;
                }
                left.reverse();
                left.extend(right);
                Clients::Weighted(k, Alias::new(&left))
            }
        }
    }

    /// A client's number.
    #[inline]
    pub fn draw(&self, rng: &mut Rng) -> u32 {
        match self {
            Clients::Uniform(n) => rng.below(*n),
            Clients::Weighted(first, table) => first + table.draw(rng) as u32,
        }
    }
}

/// Log-normal lengths of time in µs, as 1,024 steps of the sum of four uniform numbers (±3.46 standard deviations).
#[derive(Clone, Debug)]
pub struct LogNormal(Box<[u32; 1024]>);

impl LogNormal {
    /// With a median in µs and a standard deviation of the natural logarithm.
    pub fn new(median_us: u32, sigma: f64) -> LogNormal {
        let mut steps = Box::new([0; 1024]);
        for (i, step) in steps.iter_mut().enumerate() {
            // Mean 2 and standard deviation 1/√3 of the sum; √3 as a constant.
            let z = ((i as f64 + 0.5) / 256.0 - 2.0) * 1.732_050_807_568_877_2;
            *step = (f64::from(median_us) * power_of_two(sigma * z * std::f64::consts::LOG2_E)) as u32;
        }
        LogNormal(steps)
    }

    /// A length in µs.
    #[inline]
    pub fn draw(&self, rng: &mut Rng) -> u32 {
        let bits = rng.bits();
        let sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
        self.0[(sum >> 8) as usize]
    }
}

/// 2^x for |x| <= 100, by whole powers and steps of 1/1024.
fn power_of_two(x: f64) -> f64 {
    let whole = x.floor();
    let mut result = 1.0;
    for _ in 0..(whole.abs() as u32).min(100) {
        result *= if whole < 0.0 { 0.5 } else { 2.0 };
    }
    for _ in 0..((x - whole) * 1024.0) as u32 {
        result *= 1.000_677_130_693_066_4;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(n: u32, spread: Spread, draws: u32) -> Vec<u32> {
        let (clients, mut rng) = (Clients::new(n, spread), Rng::new(3, 3));
        let mut counts = vec![0; n as usize];
        (0..draws).for_each(|_| counts[clients.draw(&mut rng) as usize] += 1);
        counts
    }

    #[test]
    fn spreads_have_their_shape() {
        for spread in [Spread::Binomial, Spread::Zipf, Spread::Uniform] {
            assert_eq!(counts(1, spread, 10), [10], "{spread:?} of one");
            assert_eq!(counts(2, spread, 1000).iter().sum::<u32>(), 1000, "{spread:?} of two");
        }
        let zipf = counts(1000, Spread::Zipf, 1_000_000);
        let harmonic: f64 = (1..=1000).map(|k| 1.0 / f64::from(k)).sum();
        for k in [1, 2, 10] {
            let want = 1e6 / harmonic / f64::from(k);
            assert!((f64::from(zipf[k as usize - 1]) - want).abs() < want * 0.05, "zipf {k}");
        }
        let uniform = counts(100, Spread::Uniform, 1_000_000);
        assert!(uniform.iter().all(|c| (9_500..10_500).contains(c)));
        let binomial = counts(1001, Spread::Binomial, 1_000_000);
        let mean = binomial.iter().enumerate().map(|(k, c)| k as f64 * f64::from(*c)).sum::<f64>() / 1e6;
        let variance =
            binomial.iter().enumerate().map(|(k, c)| (k as f64 - mean).powi(2) * f64::from(*c)).sum::<f64>() / 1e6;
        assert!((mean - 500.0).abs() < 0.1 && (variance - 250.0).abs() < 3.0, "{mean} {variance}");
    }

    #[test]
    fn log_normal_has_its_median_and_width() {
        let (times, mut rng) = (LogNormal::new(100_000, 0.5), Rng::new(1, 2));
        let mut all: Vec<u32> = (0..100_001).map(|_| times.draw(&mut rng)).collect();
        all.sort_unstable();
        assert!((98_000..102_000).contains(&all[50_000]), "median {}", all[50_000]);
        let p84 = f64::from(all[84_134]);
        assert!((p84 / 164_872.0 - 1.0).abs() < 0.03, "one deviation above: {p84}");
        assert!(
            (power_of_two(-3.0) - 0.125).abs() < 1e-12 && (power_of_two(0.5) - std::f64::consts::SQRT_2).abs() < 1e-6
        );
    }
}
