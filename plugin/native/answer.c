// The agent's answer, read: one flat JSON object.
//
//     {"v": 3, "answer": "cni", "stdout": "{...}", "stderr": "", "exit_code": 0}
//
// Be aware: all functions return false for what does not follow RFC 8259 or the protocol, and then the answer is as
// none. Unknown fields are passed by where they are no objects or lists. Of equal names the last counts, as in Python.
#include "shim.h"

#include <string.h>

struct cursor {
    const unsigned char *at, *end;
};

enum { MAX_INTEGER = 1 << 20 }; // larger ones are none of the protocol's

static void skip_space(struct cursor *in)
{
    while (in->at < in->end && memchr(" \t\n\r", *in->at, 4))
        in->at++;
}

static bool take(struct cursor *in, char wanted)
{
    skip_space(in);
    if (in->at == in->end || *in->at != (unsigned char)wanted)
        return false;
    in->at++;
    return true;
}

static bool take_word(struct cursor *in, const char *word)
{
    size_t length = strlen(word);
    if ((size_t)(in->end - in->at) < length || memcmp(in->at, word, length) != 0)
        return false;
    in->at += length;
    return true;
}

static bool read_hex(struct cursor *in, unsigned *unit)
{
    if (in->end - in->at < 4)
        return false;
    *unit = 0;
    for (int i = 0; i < 4; i++) {
        unsigned char digit = *in->at++;
        unsigned value;
        if (digit >= '0' && digit <= '9')
            value = digit - '0';
        else if (digit >= 'a' && digit <= 'f')
            value = digit - 'a' + 10u;
        else if (digit >= 'A' && digit <= 'F')
            value = digit - 'A' + 10u;
        else
            return false;
        *unit = *unit << 4 | value;
    }
    return true;
}

static void add_utf8(struct text *out, unsigned code)
{
    unsigned char bytes[4];
    size_t length = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = length; i-- > 1; code >>= 6)
        bytes[i] = (unsigned char)(0x80 | (code & 0x3f));
    bytes[0] = (unsigned char)(lead[length] | code);
    text_add(out, bytes, length);
}

// After "\u". Half of a surrogate pair is a byte that was no UTF-8 (Python's surrogateescape), or nothing at all.
static bool read_unicode(struct cursor *in, struct text *out)
{
    unsigned unit, low;
    if (!read_hex(in, &unit))
        return false;
    if (unit >= 0xd800 && unit <= 0xdbff) {
        if (!take_word(in, "\\u") || !read_hex(in, &low) || low < 0xdc00 || low > 0xdfff)
            return false;
        unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
    } else if (unit >= 0xdc80 && unit <= 0xdcff) {
        unsigned char byte = (unsigned char)(unit - 0xdc00);
        text_add(out, &byte, 1);
        return true;
    } else if (unit >= 0xdc00 && unit <= 0xdfff) {
        return false;
    }
    add_utf8(out, unit);
    return true;
}

static bool read_escape(struct cursor *in, struct text *out)
{
    static const char named[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
    if (in->at == in->end)
        return false;
    unsigned char letter = *in->at++;
    if (letter == 'u')
        return read_unicode(in, out);
    for (const char *pair = named; *pair; pair += 2)
        if (*pair == (char)letter) {
            text_add(out, pair + 1, 1);
            return true;
        }
    return false;
}

// A string, into `out` in place of what was there.
static bool read_string(struct cursor *in, struct text *out)
{
    if (!take(in, '"'))
        return false;
    out->length = 0;
    for (const unsigned char *plain = in->at; in->at < in->end; in->at++) {
        if (*in->at >= 0x20 && *in->at != '"' && *in->at != '\\')
            continue;
        text_add(out, plain, (size_t)(in->at - plain));
        if (*in->at < 0x20)
            return false;
        if (*in->at++ == '"')
            return !out->failed;
        if (!read_escape(in, out))
            return false;
        plain = in->at--;
    }
    return false;
}

static bool read_integer(struct cursor *in, int *number)
{
    skip_space(in);
    bool negative = take_word(in, "-");
    const unsigned char *first = in->at;
    long value = 0;
    while (in->at < in->end && *in->at >= '0' && *in->at <= '9') {
        value = value * 10 + (*in->at++ - '0');
        if (value > MAX_INTEGER)
            return false;
    }
    if (in->at == first || (*first == '0' && in->at - first > 1))
        return false;
    *number = (int)(negative ? -value : value);
    return true;
}

static bool is(const struct text *text, const char *word)
{
    return text->length == strlen(word) && memcmp(text->bytes, word, text->length) == 0;
}

static bool skip_value(struct cursor *in)
{
    struct text ignored = {0};
    int number;
    skip_space(in);
    if (in->at < in->end && *in->at == '"')
        return read_string(in, &ignored);
    return take_word(in, "true") || take_word(in, "false") || take_word(in, "null") || read_integer(in, &number);
}

bool answer_read(const char *body, size_t length, struct answer *answer)
{
    struct cursor in = {(const unsigned char *)body, (const unsigned char *)body + length};
    struct text name = {0}, kind = {0};
    bool has_output = false, has_error = false, has_status = false;
    int version = 0;
    if (!take(&in, '{'))
        return false;
    do {
        bool read;
        if (!read_string(&in, &name) || !take(&in, ':'))
            return false;
        if (is(&name, "v"))
            read = read_integer(&in, &version);
        else if (is(&name, "answer"))
            read = read_string(&in, &kind);
        else if (is(&name, "stdout"))
            read = has_output = read_string(&in, &answer->output);
        else if (is(&name, "stderr"))
            read = has_error = read_string(&in, &answer->error);
        else if (is(&name, "exit_code"))
            read = has_status = read_integer(&in, &answer->status);
        else
            read = skip_value(&in);
        if (!read)
            return false;
    } while (take(&in, ','));
    if (!take(&in, '}'))
        return false;
    skip_space(&in);
    return in.at == in.end && version == PROTOCOL && is(&kind, "cni") && has_output && has_error && has_status &&
           answer->status >= DECLINED && answer->status <= 255;
}
