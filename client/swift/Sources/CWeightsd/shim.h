// The header that pkg-config finds.
#include <weightsd.h>
