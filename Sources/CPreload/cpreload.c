#include "include/CPreload.h"
