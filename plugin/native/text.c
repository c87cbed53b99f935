// Bytes that grow, and JSON strings written into them.
#include "shim.h"

#include <stdio.h>
#include <string.h>

void text_add(struct text *text, const void *bytes, size_t length)
{
    if (text->failed || length == 0)
        return;
    if (length > text->capacity - text->length) {
        size_t capacity = text->capacity ? text->capacity : 4096;
        while (capacity - text->length < length) {
            if (capacity > (size_t)1 << 30) { // far more than any input or frame
                text->failed = true;
                return;
            }
            capacity *= 2;
        }
        char *grown = realloc(text->bytes, capacity);
        if (!grown) {
            text->failed = true;
            return;
        }
        text->bytes = grown;
        text->capacity = capacity;
    }
    memcpy(text->bytes + text->length, bytes, length);
    text->length += length;
}

void text_word(struct text *text, const char *word)
{
    text_add(text, word, strlen(word));
}

void text_number(struct text *text, long long number)
{
    char digits[24];
    snprintf(digits, sizeof digits, "%lld", number);
    text_word(text, digits);
}

// What stands for a byte inside a JSON string (RFC 8259, 7); empty where it stands for itself.
static void escape(unsigned char byte, char out[8])
{
    static const char named[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    for (const char *pair = named; *pair; pair += 2)
        if (*pair == (char)byte) {
            snprintf(out, 8, "\\%c", pair[1]);
            return;
        }
    if (byte < 0x20)
        snprintf(out, 8, "\\u%04x", byte);
    else
        out[0] = '\0';
}

void text_json(struct text *text, const void *bytes, size_t length)
{
    const unsigned char *at = length ? bytes : (const void *)"", *end = at + length, *plain = at;
    text_word(text, "\"");
    for (; at < end; at++) {
        if (*at >= 0x20 && *at != '"' && *at != '\\')
            continue;
        char escaped[8];
        escape(*at, escaped);
        text_add(text, plain, (size_t)(at - plain));
        text_word(text, escaped);
        plain = at + 1;
    }
    text_add(text, plain, (size_t)(end - plain));
    text_word(text, "\"");
}
