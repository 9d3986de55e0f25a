#include "include/CLive.h"
