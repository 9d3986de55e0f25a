#ifndef SWIFT_HMM_CLINUX_H
#define SWIFT_HMM_CLINUX_H
// The few pieces of the system that Swift cannot import. Numbers and layouts, no decisions.
#include "CLinuxSync.h"
#endif
