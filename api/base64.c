#include "api/base64.h"

static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

size_t kvs_base64_encode(const uint8_t *bytes, size_t count, char *out)
{
    size_t used = 0;
    for (size_t i = 0; i < count; i += 3) {
        size_t have = count - i < 3 ? count - i : 3;
        uint32_t bits = (uint32_t)bytes[i] << 16;
        bits |= have > 1 ? (uint32_t)bytes[i + 1] << 8 : 0;
        bits |= have > 2 ? (uint32_t)bytes[i + 2] : 0;
        for (size_t j = 0; j < 4; j++) {
            out[used++] = (char)(j <= have ? letters[bits >> (18 - 6 * j) & 63] : '=');
        }
    }
    return used;
}

/* 0 to 63, or -1. */
static int digit(char letter)
{
    if (letter >= 'A' && letter <= 'Z') {
        return letter - 'A';
    }
    if (letter >= 'a' && letter <= 'z') {
        return letter - 'a' + 26;
    }
    if (letter >= '0' && letter <= '9') {
        return letter - '0' + 52;
    }
    if (letter == '+' || letter == '-') {
        return 62;
    }
    return letter == '/' || letter == '_' ? 63 : -1;
}

bool kvs_base64_decode(const char *text, size_t length, uint8_t *out, size_t *out_bytes)
{
    if (length > 0 && length % 4 == 0 && text[length - 1] == '=') {
        length -= text[length - 2] == '=' ? 2 : 1;
    }
    if (length % 4 == 1) {
        return false;
    }
    uint32_t bits = 0;
    unsigned have = 0;
    size_t used = 0;
    for (size_t i = 0; i < length; i++) {
        int value = digit(text[i]);
        if (value < 0) {
            return false;
        }
        bits = bits << 6 | (uint32_t)value;
        have += 6;
        if (have >= 8) {
            have -= 8;
            out[used++] = (uint8_t)(bits >> have);
            bits &= (1u << have) - 1;
        }
    }
    *out_bytes = used;
    return bits == 0;
}
