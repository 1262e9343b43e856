"""Where the threads of a run wait for one another, between kernels: a counter and a generation, in LLVM's own code.

All threads are at work in one parallel region, so a wait is short: a thread spins, and after a while lets others run.
"""

from __future__ import annotations

# Before a thread that waits gives its core away: some 50 us, longer than threads on cores of their own wait. Where two
# of them share one core, as on a busy machine, all spinning keeps the other from what is waited for.
SPINS = 1000
_PAUSE = {"x86_64": "call void @llvm.x86.sse2.pause()", "aarch64": "call void @llvm.aarch64.hint(i32 1)"}
_DECLARED = {"x86_64": "declare void @llvm.x86.sse2.pause()", "aarch64": "declare void @llvm.aarch64.hint(i32)"}


def barrier_code(arch: str) -> str:
    """`void tundish_barrier(int64* state, int64 threads)`; state[0] counts, state[8] is the generation.

    Both are 0 at first, and lie in cache lines of their own.
    """
    return f"""
{_DECLARED.get(arch, "")}
declare i32 @sched_yield()

define weak_odr hidden void @tundish_barrier(ptr %state, i64 %threads) noinline {{
start:
  %generation = getelementptr i64, ptr %state, i64 8
  %mine = load atomic i64, ptr %generation acquire, align 8
  %before = atomicrmw add ptr %state, i64 1 acq_rel
  %arrived = add i64 %before, 1
  %last = icmp eq i64 %arrived, %threads
  br i1 %last, label %open, label %spin
open:
  store atomic i64 0, ptr %state monotonic, align 8
  %next = add i64 %mine, 1
  store atomic i64 %next, ptr %generation release, align 8
  ret void
spin:
  %count = phi i64 [ 0, %start ], [ %more, %again ]
  %now = load atomic i64, ptr %generation acquire, align 8
  %done = icmp ne i64 %now, %mine
  br i1 %done, label %end, label %wait
wait:
  %long = icmp ugt i64 %count, {SPINS}
  br i1 %long, label %yield, label %pause
pause:
  {_PAUSE.get(arch, "")}
  br label %again
yield:
  %ignored = call i32 @sched_yield()
  br label %again
again:
  %more = add i64 %count, 1
  br label %spin
end:
  ret void
}}
"""
