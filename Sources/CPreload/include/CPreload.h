#ifndef SWIFT_HMM_CPRELOAD_H
#define SWIFT_HMM_CPRELOAD_H
// The functions of the C library that `hmm exec` puts itself before.
#endif
