//! Attacks the real sandbox through the real binary. Owns the suite's set-up; runs as root and as an
//! ordinary user, asserts what holds for each, and never skips.

#[cfg(test)]
mod cache;
#[cfg(test)]
mod cache_attacked;
#[cfg(test)]
mod cache_frameworks;
#[cfg(test)]
mod isolation;
#[cfg(test)]
mod leftovers;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod output;
#[cfg(test)]
mod registry;
#[cfg(test)]
mod yard;
