//! Tables as sea-orm models, no behaviour.
