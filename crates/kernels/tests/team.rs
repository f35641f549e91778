//! A team does every part once, whatever its size, through naps and panics, and ends with its owner.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use kernels::Team;

/// Doubles so many numbers; how many each member did.
fn double(team: &mut Team, count: usize) -> Vec<usize> {
    let mut members = vec![0; team.members()];
    let mut numbers: Vec<usize> = (0..count).collect();
    team.share(&mut members, &mut numbers, |done, number| {
        *number *= 2;
        *done += 1;
    });
    assert_eq!(numbers, (0..count).map(|number| 2 * number).collect::<Vec<_>>());
    assert_eq!(members.iter().sum::<usize>(), count);
    members
}

#[test]
fn every_part_is_done_once() {
    for members in [0, 1, 2, 3, 8] {
        let mut team = Team::new(members).expect("threads");
        assert_eq!(team.members(), members.max(1));
        for round in 0..300 {
            double(&mut team, round % 20);
            if round % 100 == 0 {
                // Long enough for all to fall asleep.
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

#[test]
fn parts_run_at_the_same_time() {
    let mut team = Team::new(3).expect("threads");
    // Nobody goes on before all three are there: done one after the other, this would not end.
    let arrived = AtomicUsize::new(0);
    team.share(&mut [(); 3], &mut [(); 3], |(), ()| {
        arrived.fetch_add(1, Ordering::SeqCst);
        while arrived.load(Ordering::SeqCst) < 3 {
            thread::yield_now();
        }
    });
    assert_eq!(arrived.into_inner(), 3);
}

#[test]
fn a_slow_part_is_waited_for() {
    let mut team = Team::new(2).expect("threads");
    for slow in 0..2 {
        let mut parts = [0, 1].map(|part| (part, false));
        team.share(&mut [(); 2], &mut parts, |(), (part, done)| {
            if *part == slow {
                thread::sleep(Duration::from_millis(5));
            }
            *done = true;
        });
        assert!(parts.iter().all(|(_, done)| *done));
    }
}

#[test]
fn a_panic_reaches_the_caller_after_all_parts_and_the_team_goes_on() {
    let mut team = Team::new(2).expect("threads");
    for guilty in 0..8 {
        let mut parts: Vec<_> = (0..8).map(|part| (part, false)).collect();
        let run = AssertUnwindSafe(|| {
            team.share(&mut [(); 2], &mut parts, |(), (part, done)| {
                assert!(*part != guilty, "part {part} as the test wants it");
                *done = true;
            });
        });
        let panic = catch_unwind(run).expect_err("a part panicked");
        assert_eq!(panic.downcast_ref::<String>(), Some(&format!("part {guilty} as the test wants it")));
        assert_eq!(parts.iter().filter(|(_, done)| *done).count(), 7);
        double(&mut team, 5);
    }
}

#[test]
fn helpers_end_with_the_team() {
    thread_local! {
        static HELD: RefCell<Option<Arc<()>>> = const { RefCell::new(None) };
    }
    let held = Arc::new(());
    let mut team = Team::new(4).expect("threads");
    let arrived = AtomicUsize::new(0);
    team.share(&mut [(); 4], &mut [(); 4], |(), ()| {
        HELD.set(Some(Arc::clone(&held)));
        arrived.fetch_add(1, Ordering::SeqCst);
        while arrived.load(Ordering::SeqCst) < 4 {
            thread::yield_now();
        }
    });
    assert_eq!(Arc::strong_count(&held), 5);
    drop(team);
    assert_eq!(Arc::strong_count(&held), 2, "what helpers held is gone with them; this thread is still here");
}

#[test]
#[should_panic(expected = "1 items for 2 members")]
fn each_member_needs_an_item() {
    Team::new(2).expect("threads").share(&mut [()], &mut [(), ()], |(), ()| ());
}
