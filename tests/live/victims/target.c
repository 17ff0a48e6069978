/* What the other victims execute: ends with the exit code in argv[1], 0 without one. */
#include <stdlib.h>

int main(int argc, char **argv)
{
	return argc > 1 ? atoi(argv[1]) : 0;
}
