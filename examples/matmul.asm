; c[m, n] = a[m, k] @ b[n, k].T in fp16, for m, n and k that are multiples of 32.
;
; The result is cut into tiles of 64 x 64. The PE in row y, column x of the launch takes the tiles y, y + rows, ... of m
; and x, x + columns, ... of n; tiles at the end may be 32 wide or high. The rectangle must divide the tiles evenly,
; because all PEs of a row share one read of `a`, and all PEs of a column share one read of `b`.
;
; Core A moves operands in, core B multiplies and moves results out. They meet only in the circular buffers, so core A
; runs ahead by up to eight steps of k, and nobody has to write a software pipeline.

.kernel matmul
.args a b c m n k blocks    ; blocks: of k per step, 64 bytes / those of a block
.buffer left 4096 8         ; 64 rows of a, 32 columns of k: 64 bytes per row
.buffer right 4096 8        ; the same of b
.buffer zeros 128 1         ; one row of fp32 zeros, to start sums with
.buffer result 8192 2       ; a tile of c: 64 rows of 128 bytes

; r1 a  r2 b  r3 m  r4 n  r5 bytes per row of a and b  r6 64  r8 steps of k
; r10 first row of the tile  r11 first column  r12, r13 how far the next tile is
; r20, r21 rows and columns of this tile  r22, r23 addresses
.core A
    arg r1, 0
    arg r2, 1
    arg r3, 3
    arg r4, 4
    arg r5, 5
    li r9, 5
    sra r8, r5, r9          ; k / 32
    add r5, r5, r5          ; fp16
    li r6, 64               ; side of a tile, and bytes of 32 elements
    coord r10, row
    muli r10, r10, 64
    coord r12, rows
    muli r12, r12, 64
    coord r13, columns
    muli r13, r13, 64
next_row:
    bge r10, r3, end
    sub r20, r3, r10
    min r20, r20, r6
    coord r11, column
    muli r11, r11, 64
next_column:
    bge r11, r4, row_done
    sub r21, r4, r11
    min r21, r21, r6
    mul r22, r10, r5
    add r22, r22, r1
    mul r23, r11, r5
    add r23, r23, r2
    loop r8, fetched
    dma_in left, r0, r6, r22, r5, r20, r6, row
    push left, 1
    dma_in right, r0, r6, r23, r5, r21, r6, column
    push right, 1
    addi r22, r22, 64
    addi r23, r23, 64
fetched:
    add r11, r11, r13
    jump next_column
row_done:
    add r10, r10, r12
    jump next_row
end:
    halt

; As above, and: r2 c  r5 bytes per row of c  r7 32: the side of a block, what one accumulator bank holds
; r14 blocks of k per step  r15 bytes per row of a tile  r16 bytes to the lower blocks of an operand
; r17 the same in the tile  r24 bytes per row of this tile
.core B
    arg r2, 2
    arg r3, 3
    arg r4, 4
    arg r5, 5
    li r9, 5
    sra r8, r5, r9
    add r5, r4, r4
    li r6, 64
    li r7, 32
    arg r14, 6
    li r15, 128
    li r16, 2048            ; 32 rows of 64 bytes
    li r17, 4096            ; 32 rows of 128 bytes
    li r18, 4160            ; and 32 columns of 2 bytes
    li r19, 1
    coord r10, row
    muli r10, r10, 64
    coord r12, rows
    muli r12, r12, 64
    coord r13, columns
    muli r13, r13, 64
    fill zeros, r0, r0, r19, r7, fp32, 0.0
    push zeros, 1
next_row:
    bge r10, r3, end
    sub r20, r3, r10
    min r20, r20, r6
    coord r11, column
    muli r11, r11, 64
next_column:
    bge r11, r4, row_done
    sub r21, r4, r11
    min r21, r21, r6
    acc_load bank0, zeros, r0, r0, r7, r7, fp32, row
    acc_load bank1, zeros, r0, r0, r7, r7, fp32, row
    acc_load bank2, zeros, r0, r0, r7, r7, fp32, row
    acc_load bank3, zeros, r0, r0, r7, r7, fp32, row
    loop r8, summed
    mml bank0, left, r0, r6, right, r0, r6, r7, r7, r14, fp16, add
    blt r21, r6, narrow     ; only 32 columns: no blocks on the right
    mml bank1, left, r0, r6, right, r16, r6, r7, r7, r14, fp16, add
narrow:
    blt r20, r6, multiplied ; only 32 rows: no blocks below
    mml bank2, left, r16, r6, right, r0, r6, r7, r7, r14, fp16, add
    blt r21, r6, multiplied
    mml bank3, left, r16, r6, right, r16, r6, r7, r7, r14, fp16, add
multiplied:
    pop left, 1
    pop right, 1
summed:
    acc_drain result, r0, r15, bank0, r7, r7, fp16
    acc_drain result, r6, r15, bank1, r7, r7, fp16
    acc_drain result, r17, r15, bank2, r7, r7, fp16
    acc_drain result, r18, r15, bank3, r7, r7, fp16
    push result, 1
    mul r22, r10, r5
    add r22, r22, r2
    add r24, r11, r11
    add r22, r22, r24
    add r24, r21, r21
    dma_out r22, r5, result, r0, r15, r20, r24
    pop result, 1
    add r11, r11, r13
    jump next_column
row_done:
    add r10, r10, r12
    jump next_row
end:
    halt
