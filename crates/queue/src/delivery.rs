//! One ticket in the hands of this process, and the duty to say what became of it.

use crate::{Handled, Slot};
use prediction::Ticket;

/// A ticket that a stream handed out. It is settled exactly once: dropped unsettled, it is returned.
pub(crate) struct Delivery {
    ticket: Ticket,
    slot: Option<Slot>,
    settle: Option<Box<dyn FnOnce(Handled) + Send>>,
}

impl Delivery {
    pub(crate) fn new(ticket: Ticket, slot: Slot, settle: impl FnOnce(Handled) + Send + 'static) -> Self {
        Self { ticket, slot: Some(slot), settle: Some(Box::new(settle)) }
    }

    pub(crate) fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// What its handler is called with; the slot goes to whoever asks first.
    pub(crate) fn hand_over(&mut self) -> Option<(Ticket, Slot)> {
        Some((self.ticket.clone(), self.slot.take()?))
    }

    pub(crate) fn settle(mut self, handled: Handled) {
        if let Some(settle) = self.settle.take() {
            settle(handled);
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(settle) = self.settle.take() {
            settle(Handled::Returned);
        }
    }
}
