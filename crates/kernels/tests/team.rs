//! A team does every part once, whatever its size, through naps and panics, and ends with its owner.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use kernels::Team;

/// Doubles so many numbers; how many each member did.
fn double(team: &Team, count: usize) -> Vec<usize> {
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
        let team = Team::new(members).expect("threads");
        assert_eq!(team.members(), members.max(1));
        for round in 0..300 {
            double(&team, round % 20);
            if round % 100 == 0 {
                // Long enough for all to fall asleep.
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

#[test]
fn parts_run_at_the_same_time() {
    let team = Team::new(3).expect("threads");
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
    let team = Team::new(2).expect("threads");
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
    let team = Team::new(2).expect("threads");
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
        double(&team, 5);
    }
}

#[test]
fn helpers_end_with_the_team() {
    thread_local! {
        static HELD: RefCell<Option<Arc<()>>> = const { RefCell::new(None) };
    }
    let held = Arc::new(());
    let team = Team::new(4).expect("threads");
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

#[test]
fn the_next_piece_begins_while_one_ends() {
    let team = Team::new(2).expect("threads");
    for guilty in 0..4 {
        let [helper_came, may_end, has_left, has_ended] = [const { AtomicBool::new(false) }; 4];
        let wait_for = |flag: &AtomicBool| {
            while !flag.load(Ordering::SeqCst) {
                thread::yield_now();
            }
        };
        let mut parts = [0, 1, 2].map(|part| (part, 0));
        thread::scope(|scope| {
            let ending = scope.spawn(|| {
                let work = |is_helper: &mut bool, (part, done): &mut (usize, usize)| {
                    *done += 1;
                    if *is_helper {
                        helper_came.store(true, Ordering::SeqCst);
                        wait_for(&may_end);
                    }
                    assert!(*part != guilty, "part {part} as the test wants it");
                };
                let leaves = || {
                    wait_for(&helper_came);
                    has_left.store(true, Ordering::SeqCst);
                    true
                };
                let run = AssertUnwindSafe(|| team.share_until(&mut [false, true], &mut parts, work, leaves));
                let result = catch_unwind(run);
                has_ended.store(true, Ordering::SeqCst);
                result
            });
            wait_for(&has_left);
            // The helper is held up by a part of the first piece: this thread does all that is left of it, and its own.
            if guilty % 2 == 0 {
                team.help();
            }
            assert_eq!(double(&team, 5), [5, 0]);
            assert!(!has_ended.load(Ordering::SeqCst));
            may_end.store(true, Ordering::SeqCst);
            let result = ending.join().expect("the panic is caught");
            assert_eq!(result.is_err(), guilty < 3, "a panic reaches whose piece it was");
        });
        assert_eq!(parts, [0, 1, 2].map(|part| (part, 1)));
        double(&team, 5);
    }
}

#[test]
fn callers_take_turns() {
    let team = Team::new(3).expect("threads");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..200).for_each(|round| drop(double(&team, round % 20))));
        }
    });
}

#[test]
fn a_part_that_calls_does_its_piece_alone() {
    let [team, other] = [3, 2].map(|members| Team::new(members).expect("threads"));
    let arrived = AtomicUsize::new(0);
    team.share(&mut [(); 3], &mut [(); 9], |(), ()| {
        // Each member is in a part when it calls.
        arrived.fetch_add(1, Ordering::SeqCst);
        while arrived.load(Ordering::SeqCst) < 3 {
            thread::yield_now();
        }
        assert_eq!(double(&team, 5), [5, 0, 0]);
        team.help();
        team.share_until(&mut [(); 3], &mut [(); 3], |(), ()| assert_eq!(double(&team, 5), [5, 0, 0]), || false);
        other.share(&mut [true, false], &mut [(); 4], |is_caller, ()| {
            if *is_caller {
                assert_eq!(double(&team, 5), [5, 0, 0], "through another team's part");
            }
        });
        assert_eq!(double(&team, 5), [5, 0, 0], "as before it called another team");
    });
    // What `leaves` calls, too.
    team.share_until(
        &mut [(); 3],
        &mut [(); 9],
        |(), ()| (),
        || {
            assert_eq!(double(&team, 5), [5, 0, 0]);
            false
        },
    );
    double(&team, 20);
}

#[test]
fn a_caller_that_panics_waits_for_its_parts() {
    let team = Team::new(2).expect("threads");
    let mut parts = [0; 6];
    let run = AssertUnwindSafe(|| {
        team.share_until(&mut [(); 2], &mut parts, |(), part| *part += 1, || panic!("as the test wants it"));
    });
    assert!(catch_unwind(run).is_err());
    assert_eq!(parts, [1; 6]);
    double(&team, 5);
}
