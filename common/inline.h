// REPRISE_INLINE: for functions in headers that translation units of different instruction sets
// share. Were one of them compiled out of line, the linker might keep the AVX-512 copy for all.
#ifndef REPRISE_COMMON_INLINE_H_
#define REPRISE_COMMON_INLINE_H_

#define REPRISE_INLINE inline __attribute__((always_inline))

#endif  // REPRISE_COMMON_INLINE_H_
