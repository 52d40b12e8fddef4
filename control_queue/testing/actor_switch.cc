// SPDX-License-Identifier: Apache-2.0
// HandoffSwitchActor(), see state_space.h.
#if !defined(__x86_64__)
#error "the switch between actors is written for x86-64"
#endif

// Leaves one stack and enters another. What a function must preserve lies on the stacks meanwhile,
// so that a stack says everything about its actor; nothing is left below them.
asm(R"(
.text
.globl HandoffSwitchActor
.type HandoffSwitchActor, @function
HandoffSwitchActor:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  movq $0, -8(%rsp)
  movq $0, -16(%rsp)
  movq $0, -24(%rsp)
  movq $0, -32(%rsp)
  movq $0, -40(%rsp)
  movq $0, -48(%rsp)
  ret
.size HandoffSwitchActor, .-HandoffSwitchActor
)");
