// What both attention kernels are given.
#pragma once

#include "machine.cuh"

// Query rows and the key rows that they see. As `Segment` in `attention.rs`.
struct Segment {
    u32 query_start;
    u32 queries;
    u32 key_start;
    u32 keys;
};

// As `AttentionParams` in `attention.rs`.
struct AttentionParams {
    const void* q;  // [rows, q_ld], head h at column h * HEAD_DIM
    const void* k;  // [rows, k_ld], the head of a group of query heads at column h / group * HEAD_DIM
    const void* v;  // [rows, v_ld]
    const Segment* segments;
    void* out;      // [rows, out_ld]
    float* tap;     // [rows, heads * HEAD_DIM]
    u32 q_ld;
    u32 k_ld;
    u32 v_ld;
    u32 out_ld;
    u32 out_element;
    u32 out_format;
    u32 heads;
    u32 group;
    u32 causal;
    float scale;
    float out_factor;  // brings the result into the range of an 8-bit element type
    u32 padding;
};
