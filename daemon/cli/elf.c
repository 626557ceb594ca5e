/* elf.c - read one variable out of a shared object without loading it.
 *
 * The plugin bakes in the Slurm version that it was built for as the variable
 * `plugin_version`; Slurm refuses another release's. Loading the file here would run
 * its constructors and need Slurm's symbols, so the dynamic symbol table is walked
 * instead. Only this machine's own ELF class and byte order; every offset is checked
 * against the mapped size. */
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/cli/doctor.h"

#define FILE_MAX (64u << 20)

struct image {
    const char *bytes;
    size_t size;
};

/* `count` items of `size` bytes at `offset`, or NULL if they are not all in the file,
 * or not aligned as a linker writes them. */
static const void *at(const struct image *image, uint64_t offset, uint64_t count,
                      size_t size)
{
    size_t align = size < sizeof(void *) ? size : sizeof(void *);

    if (offset > image->size || count > (image->size - offset) / size ||
        offset % align != 0)
        return NULL;
    return image->bytes + offset;
}

static const ElfW(Shdr) *
    find_section(const struct image *image, const ElfW(Ehdr) * head, uint32_t type)
{
    const ElfW(Shdr) *sections =
        at(image, head->e_shoff, head->e_shnum, sizeof(*sections));

    for (unsigned i = 0; sections != NULL && i < head->e_shnum; i++)
        if (sections[i].sh_type == type)
            return &sections[i];
    return NULL;
}

/* The file offset of an address, by the segment that holds it; 0: in none. */
static uint64_t offset_of(const struct image *image, const ElfW(Ehdr) * head,
                          uint64_t address)
{
    const ElfW(Phdr) *segments =
        at(image, head->e_phoff, head->e_phnum, sizeof(*segments));

    for (unsigned i = 0; segments != NULL && i < head->e_phnum; i++)
        if (segments[i].p_type == PT_LOAD && address >= segments[i].p_vaddr &&
            address - segments[i].p_vaddr < segments[i].p_filesz)
            return address - segments[i].p_vaddr + segments[i].p_offset;
    return 0;
}

static const uint32_t *find_variable(const struct image *image, const char *symbol)
{
    const ElfW(Ehdr) *head = at(image, 0, 1, sizeof(*head));
    const ElfW(Shdr) * table, *strings;
    const ElfW(Sym) * symbols;
    const char *text;

    if (head == NULL || memcmp(head->e_ident, ELFMAG, SELFMAG) != 0 ||
        head->e_ident[EI_CLASS] != (sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32))
        return NULL;
    table = find_section(image, head, SHT_DYNSYM);
    strings = find_section(image, head, SHT_STRTAB);
    if (table == NULL || strings == NULL)
        return NULL;
    symbols = at(image, table->sh_offset, table->sh_size / sizeof(*symbols),
                 sizeof(*symbols));
    text = at(image, strings->sh_offset, strings->sh_size, 1);
    if (symbols == NULL || text == NULL)
        return NULL;
    for (size_t i = 0; i < table->sh_size / sizeof(*symbols); i++) {
        uint64_t name = symbols[i].st_name, len = strlen(symbol) + 1;

        if (name + len <= strings->sh_size && memcmp(text + name, symbol, len) == 0 &&
            symbols[i].st_shndx != SHN_UNDEF)
            return at(image, offset_of(image, head, symbols[i].st_value), 1, 4);
    }
    return NULL;
}

int elf_read_variable(const char *path, const char *symbol, uint32_t *value,
                      struct vine_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct image image = {0};
    const uint32_t *found;
    struct stat st;
    void *map;

    if (fd < 0)
        return vine_err_sys(err, "cannot open '%s'", path);
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size <= 0 ||
        st.st_size > FILE_MAX) {
        (void)close(fd);
        return vine_err_set(err, VINE_EINVAL, "'%s' is no shared object", path);
    }
    map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    (void)close(fd);
    if (map == MAP_FAILED)
        return vine_err_sys(err, "cannot map '%s'", path);
    image.bytes = map;
    image.size = (size_t)st.st_size;
    found = find_variable(&image, symbol);
    if (found != NULL)
        memcpy(value, found, sizeof(*value));
    (void)munmap(map, image.size);
    if (found == NULL)
        return vine_err_set(err, VINE_EINVAL,
                            "'%s' exports no '%s': it is no SPANK plugin", path,
                            symbol);
    return 0;
}
