//! Medians and quartiles.

use serde::{Deserialize, Serialize};

/// The quarter, the half and three quarters of the figures are at most these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quartiles {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Quartiles {
    /// Of no figures, all zero.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<_> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let Some(last) = figures.len().checked_sub(1) else {
            return Self::default();
        };
        let quantile = |part: f64| {
            let at = last as f64 * part;
            let (below, above) = (figures[at.floor() as usize], figures[at.ceil() as usize]);
            below + (above - below) * at.fract()
        };
        Self {
            low: quantile(0.25),
            median: quantile(0.5),
            high: quantile(0.75),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_the_figures() {
        let cases: [(&[f64], [f64; 3]); 4] = [
            (&[], [0.0, 0.0, 0.0]),
            (&[2.0], [2.0, 2.0, 2.0]),
            (&[3.0, 1.0], [1.5, 2.0, 2.5]),
            (&[5.0, 1.0, 2.0, 4.0, 3.0], [2.0, 3.0, 4.0]),
        ];
        for (figures, [low, median, high]) in cases {
            let expected = Quartiles { low, median, high };
            assert_eq!(Quartiles::of(figures.iter().copied()), expected);
        }
    }
}
