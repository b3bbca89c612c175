//! Planted bugs, one for each step that durability or integrity rests on: to see that the tests
//! notice when the step is missing.
//!
//! A step asks `is` whether it is to be done wrong. Without the feature `sabotage` the answer is
//! a constant, so that nothing of this is in a build for users; with it, nothing is wrong unless a
//! test has planted a bug, once for the whole process. `tools/sabotage.rs` runs the tests once for
//! each bug and demands that they fail.
//!
//! What it deliberately does not do: read the environment, or know what a step is.

/// What can be done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "sabotage"), allow(unreachable_pub, reason = "only tests see it"))]
#[cfg_attr(
    not(all(feature = "grpc", feature = "client")),
    allow(dead_code, reason = "some steps are in parts that are left out")
)]
pub enum Bug {
    /// The journal's blocks are not synced.
    NoJournalSync,
    /// The header page of a slot is not synced before the slot is listed.
    NoSlotHeaderSync,
    /// The edit that lists a slot is not synced.
    NoSlotUseSync,
    /// No edit of the manifest is synced.
    NoManifestSync,
    /// A pack's file is not synced.
    NoPackSync,
    /// What was written of a pack is not read back.
    TrustPackWrites,
    /// The directory of packs is not synced.
    NoPackDirectorySync,
    /// The directory is not synced after `CURRENT` was replaced.
    NoCurrentDirectorySync,
    /// The directory is not synced before `CURRENT` names a new manifest.
    NoManifestDirectorySync,
    /// The directory of slots is not synced after a slot was made.
    NoSlotDirectorySync,
    /// A slot that left the journal is used again as it is.
    NoSlotZeroing,
    /// Sectors full of zeros are written as they are.
    NoMask,
    /// Every use of a slot has the same salt.
    SameSalt,
    /// The checksum of a block's header is not looked at.
    IgnoreHeaderCrc,
    /// The checksum of a block's payload is not looked at.
    IgnorePayloadCrc,
    /// A block need not follow the one before.
    IgnorePrevCrc,
    /// A header need not be of this use of its slot.
    IgnoreFileSeq,
    /// The end of a block is not looked at.
    IgnoreTrailer,
    /// Row 11: that another slot follows proves nothing.
    IgnoreNextSlot,
    /// Row 12: that a later block was written proves nothing.
    IgnoreLaterBlock,
    /// Row 13: that the store was closed in order proves nothing.
    IgnoreCleanMark,
    /// Row 16: slots that the manifest does not list are not looked at.
    IgnoreUnlistedSlot,
    /// Row 7: a block that was torn is taken for damaged.
    TornIsDamaged,
    /// Row 8: a block that was damaged is taken for torn.
    DamagedIsTorn,
    /// The checksum of a frame is not looked at.
    IgnoreFrameCrc,
    /// A frame need not follow the run's frame before.
    IgnoreFrameChain,
    /// The checksum of a pack's block is not looked at.
    IgnorePackBlockCrc,
    /// The checksum of a pack's directory is not looked at.
    IgnorePackIndexCrc,
    /// A commit is answered before it is synced.
    AckBeforeSync,
    /// A commit is visible before it is synced.
    PublishBeforeSync,
    /// A refusal does not wait for what it rests on.
    RefusalBeforeDurable,
    /// A repetition is answered before what it repeats is durable.
    DuplicateBeforeDurable,
    /// Slots leave the journal although frames in them are in no pack.
    FreeSlotBeforeCopy,
    /// A collected pack is unlinked before the edit that drops it.
    UnlinkBeforeEdit,
    /// A start does not copy the blocks that are in doubt.
    NoCopyOfDoubtful,
    /// A sync that failed is tried again.
    RetryFailedSync,
    /// A store goes on after its journal could not be written.
    GoOnAfterFailure,
    /// What a producer has sent is known to memory only.
    ProducerOutsideFrame,
    /// A turn's outputs and its acks are two frames.
    TurnInTwoFrames,
    /// A wait begins without a look at what it waits for.
    WaitWithoutCheck,
    /// Whoever has lost the lease may write.
    IgnoreLease,
    /// Inputs are trimmed that somebody owes an answer to.
    TrimOwedInputs,
    /// The floor of a consumer passes inputs that are not acked.
    FloorPassesOwed,
    /// A closed run refuses what it has taken before.
    ClosedBeforeDuplicate,
    /// A number that is used for other content is answered as a repetition.
    IgnoreContentOfRepetition,
    /// Whoever waits for a copy of what is durable is not told that the store closes.
    CloseWithoutWake,
    /// A reader at the tail listens for changes only after it has looked.
    ListenAfterLook,
    /// The memory that a refused command was admitted with is not given back.
    KeepMemoryOfRefused,
    /// That an input is free again is told to nobody.
    ReleaseWithoutWake,
    /// That the committer has ended is told to nobody who waits for the disk.
    ForgetEnd,
    /// A watcher is woken before it is noted what has changed.
    TellBeforeNote,
    /// Those who wait are woken before it is noted that the store ends.
    WakeBeforeEnd,
    /// Readers are sent to a pack before it is on the shelf.
    ForgetBeforeShelf,
    /// A session acknowledges the newest batch in place of the oldest.
    AckOutOfTurn,
    /// What a broken session left open is sent again under new numbers.
    ResendAsNew,
    /// A call that would double is repeated although it may have been applied.
    RepeatUnnumbered,
    /// A tail whose connection broke goes on one record too far.
    SkipOnResume,
}

#[cfg(feature = "sabotage")]
mod planted {
    use std::sync::OnceLock;

    use crate::sabotage::Bug;

    static PLANTED: OnceLock<Bug> = OnceLock::new();

    impl Bug {
        /// All of them.
        pub const ALL: [Self; 57] = [
            Self::NoJournalSync,
            Self::NoSlotHeaderSync,
            Self::NoSlotUseSync,
            Self::NoManifestSync,
            Self::NoPackSync,
            Self::TrustPackWrites,
            Self::NoPackDirectorySync,
            Self::NoCurrentDirectorySync,
            Self::NoManifestDirectorySync,
            Self::NoSlotDirectorySync,
            Self::NoSlotZeroing,
            Self::NoMask,
            Self::SameSalt,
            Self::IgnoreHeaderCrc,
            Self::IgnorePayloadCrc,
            Self::IgnorePrevCrc,
            Self::IgnoreFileSeq,
            Self::IgnoreTrailer,
            Self::IgnoreNextSlot,
            Self::IgnoreLaterBlock,
            Self::IgnoreCleanMark,
            Self::IgnoreUnlistedSlot,
            Self::TornIsDamaged,
            Self::DamagedIsTorn,
            Self::IgnoreFrameCrc,
            Self::IgnoreFrameChain,
            Self::IgnorePackBlockCrc,
            Self::IgnorePackIndexCrc,
            Self::AckBeforeSync,
            Self::PublishBeforeSync,
            Self::RefusalBeforeDurable,
            Self::DuplicateBeforeDurable,
            Self::FreeSlotBeforeCopy,
            Self::UnlinkBeforeEdit,
            Self::NoCopyOfDoubtful,
            Self::RetryFailedSync,
            Self::GoOnAfterFailure,
            Self::ProducerOutsideFrame,
            Self::TurnInTwoFrames,
            Self::WaitWithoutCheck,
            Self::IgnoreLease,
            Self::TrimOwedInputs,
            Self::FloorPassesOwed,
            Self::ClosedBeforeDuplicate,
            Self::IgnoreContentOfRepetition,
            Self::CloseWithoutWake,
            Self::ListenAfterLook,
            Self::KeepMemoryOfRefused,
            Self::ReleaseWithoutWake,
            Self::ForgetEnd,
            Self::TellBeforeNote,
            Self::WakeBeforeEnd,
            Self::ForgetBeforeShelf,
            Self::AckOutOfTurn,
            Self::ResendAsNew,
            Self::RepeatUnnumbered,
            Self::SkipOnResume,
        ];

        /// Its name, as it is written here.
        pub fn name(self) -> String {
            format!("{self:?}")
        }

        /// The bug of this name.
        pub fn named(name: &str) -> Option<Self> {
            Self::ALL.into_iter().find(|bug| bug.name() == name)
        }
    }

    /// Plants a bug, for as long as the process lives. It may be planted again, but no other.
    ///
    /// # Panics
    /// If another bug is planted already.
    pub fn plant(bug: Bug) {
        let planted = PLANTED.get_or_init(|| bug);
        assert_eq!(*planted, bug, "one bug at a time");
    }

    /// Whether this bug is planted.
    pub(crate) fn is(bug: Bug) -> bool {
        PLANTED.get() == Some(&bug)
    }
}

#[cfg(feature = "sabotage")]
pub(crate) use planted::is;
#[cfg(feature = "sabotage")]
pub use planted::plant;

/// Whether this bug is planted: never, in this build.
#[cfg(not(feature = "sabotage"))]
pub(crate) const fn is(_bug: Bug) -> bool {
    false
}
