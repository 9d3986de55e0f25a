#ifndef SWIFT_HMM_CLIVE_H
#define SWIFT_HMM_CLIVE_H
// What the live backend does where nothing but async-signal-safe code may run: answers page faults, and the calls of
// the kernel that it is made of.
#endif
