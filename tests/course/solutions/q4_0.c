/* Unpack q4_0, then quantize it to the byte. On a little-endian machine. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static void unpack(FILE *in, FILE *out)
{
    float d, x[32];
    uint8_t codes[16];
    while (fread(&d, 4, 1, in) == 1 && fread(codes, 16, 1, in) == 1) {
        for (int i = 0; i < 16; i++) {
            x[2 * i] = ((codes[i] & 15) - 8) * d;
            x[2 * i + 1] = ((codes[i] >> 4) - 8) * d;
        }
        fwrite(x, 4, 32, out);
    }
}

static void pack(FILE *in, FILE *out)
{
    float x[32];
    while (fread(x, 4, 32, in) == 32) {
        float greatest = 0;
        for (int i = 0; i < 32; i++)
            greatest = fmaxf(greatest, fabsf(x[i]));
        float d = greatest / 7;
        float id = d ? 1.0f / d : 0;
        uint8_t codes[16];
        for (int i = 0; i < 16; i++) {
            int first = (int)roundf(x[2 * i] * id) + 8;
            int second = (int)roundf(x[2 * i + 1] * id) + 8;
            codes[i] = (uint8_t)(first | second << 4);
        }
        fwrite(&d, 4, 1, out);
        fwrite(codes, 16, 1, out);
    }
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
    if (!in || !out)
        return 1;
    size_t n = strlen(argv[1]);
    if (n > 5 && !strcmp(argv[1] + n - 5, ".q4_0"))
        unpack(in, out);
    else
        pack(in, out);
    return fclose(out) != 0;
}
