/* Answers `cpuid` for a library whose instructions of that name were made invalid (held.py), as a machine without AVX-512, AMX and
   AVX-VNNI would. 06 A2 is no instruction of 64-bit programs, so nothing else raises SIGILL by it. */

#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

static struct sigaction before;
static volatile unsigned long asked;

/* Bits of the features, by Intel's manual, volume 2A, CPUID, and volume 1, 16 (AVX10). */
static void hold(unsigned leaf, unsigned subleaf, unsigned *eax, unsigned *ebx, unsigned *ecx, unsigned *edx) {
    if (leaf == 7 && subleaf == 0) {
        *ebx &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31);
        *ecx &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);
        *edx &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25);
    } else if (leaf == 7 && subleaf == 1) {
        *eax &= ~(1u << 4 | 1u << 5 | 1u << 21 | 1u << 23);
        *edx &= ~(1u << 4 | 1u << 5 | 1u << 8 | 1u << 10 | 1u << 19);
    }
}

static void answer(int number, siginfo_t *information, void *context) {
    static const unsigned char mark[] = {0x06, 0xa2};
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    if (memcmp((const void *)registers[REG_RIP], mark, sizeof mark) != 0) {
        /* Somebody else's: what there was before gets it when the instruction is tried again. */
        sigaction(number, &before, NULL);
        return;
    }
    (void)information;
    unsigned leaf = (unsigned)registers[REG_RAX], subleaf = (unsigned)registers[REG_RCX];
    unsigned eax, ebx, ecx, edx;
    __cpuid_count(leaf, subleaf, eax, ebx, ecx, edx);
    hold(leaf, subleaf, &eax, &ebx, &ecx, &edx);
    registers[REG_RAX] = eax;
    registers[REG_RBX] = ebx;
    registers[REG_RCX] = ecx;
    registers[REG_RDX] = edx;
    registers[REG_RIP] += sizeof mark;
    asked++;
}

/* How many were answered so far. */
unsigned long answered(void) { return asked; }

int begin(void) {
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigemptyset(&action.sa_mask);
    return sigaction(SIGILL, &action, &before);
}
